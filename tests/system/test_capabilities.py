"""Capabilities of a process, and errors that name the one that is missing."""

import errno
import sys

import pytest

from handshaked.system.capabilities import Capability, explain, has
from tests.patience import run_program
from tests.with_capabilities import run_with_capabilities

PROGRAM = """
from handshaked.system.capabilities import Capability, explain, has
print(has(Capability.NET_ADMIN), has(Capability.SYS_ADMIN))
for number in (1, 13, 2):  # EPERM, EACCES, ENOENT
    print(explain(OSError(number, "refused"), Capability.SYS_ADMIN))
"""


PASSING_ON = """
import subprocess
from handshaked.system.capabilities import Capability, has, pass_on
pass_on((Capability.NET_ADMIN, Capability.SYS_ADMIN))
assert has(Capability.DAC_READ_SEARCH)
print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)
"""


PASSING_ON_FOR_A_WHILE = """
import subprocess
from handshaked.system.capabilities import passing_on
with passing_on(()):
    print(subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)
print(subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)
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


@pytest.mark.needs("root", "setpriv", "public python")
def test_only_chosen_capabilities_are_passed_on_to_programs() -> None:
    printed = run_with_capabilities(PASSING_ON)
    masks = dict(line.split() for line in printed.splitlines() if line.startswith("Cap"))
    assert {int(masks[name], 16) for name in ("CapEff:", "CapPrm:", "CapAmb:")} == {1 << Capability.NET_ADMIN}


@pytest.mark.needs("root", "setpriv", "public python")
def test_capabilities_are_passed_on_again_after_a_block_without() -> None:
    masks = [int(line.split()[1], 16) for line in run_with_capabilities(PASSING_ON_FOR_A_WHILE).split("\n") if line]
    assert masks == [0, 1 << Capability.NET_ADMIN | 1 << Capability.DAC_READ_SEARCH]
