"""Capabilities of a process, and errors that name the one that is missing."""

import errno
import sys

import pytest

from handshaked.system.capabilities import Capability, explain, has
from tests.patience import run_program

PROGRAM = """
from handshaked.system.capabilities import Capability, explain, has
print(has(Capability.NET_ADMIN), has(Capability.SYS_ADMIN))
for number in (1, 13, 2):  # EPERM, EACCES, ENOENT
    print(explain(OSError(number, "refused"), Capability.SYS_ADMIN))
"""


@pytest.mark.needs("root", "setpriv")
def test_missing_capability_is_named() -> None:
    without = ("setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin", sys.executable, "-c", PROGRAM)
    answer = run_program(*without).stdout.splitlines()
    refused = "refused; CAP_SYS_ADMIN is missing"
    assert answer == ["True False", refused, refused, "refused"]


@pytest.mark.needs("root")
def test_capability_that_the_process_has_is_not_the_reason() -> None:
    assert has(Capability.SYS_ADMIN)
    assert explain(OSError(errno.EPERM, "refused"), Capability.SYS_ADMIN) == "refused"
