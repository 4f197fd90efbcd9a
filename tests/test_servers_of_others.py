"""Servers of tests and of the demonstration run as users whom the interpreter's own files may be closed to."""

import subprocess
import sys

import pytest

_PROBE = """
import sys
import handshaked.testing.{server}
from aioquic import tls
before = set(sys.modules)
tls.Context(is_client=False)
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("server", ["echo_server", "smb_server"])
def test_nothing_is_imported_when_a_connection_comes(server: str) -> None:
    """In a checkout below /root no connection was served: another user could not read what aioquic imports late."""
    run = subprocess.run(
        [sys.executable, "-c", _PROBE.format(server=server)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"
