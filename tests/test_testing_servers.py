"""Servers of tests and of the demonstration run as users whom the interpreter's own files may be closed to."""

import sys

import pytest

from tests.patience import run_program

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
    run = run_program(sys.executable, "-c", _PROBE.format(server=server))
    assert run.stdout == "[]\n"
