"""Servers of tests and of the demonstration run as users who may be unable to read the interpreter's files."""

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


@pytest.mark.parametrize("server", ["echo_server", "smb_server", "http3"])
def test_no_module_is_imported_after_privileges_are_dropped(server: str) -> None:
    """In a checkout below /root another user cannot read modules that aioquic imports for its first connection."""
    run = run_program(sys.executable, "-c", _PROBE.format(server=server))
    assert run.stdout == "[]\n"
