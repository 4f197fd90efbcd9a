"""Capabilities of a process, and errors that name the one that is missing."""

import errno
import os
import sys
from pathlib import Path

import pytest

from handshaked.system.capabilities import Capability, explain, has
from tests.patience import run_program
from tests.plugins.needs import public_python

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
    both = "+net_admin,+dac_read_search"
    python = [public_python(), "-c", PASSING_ON]
    words = ("--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={both}", f"--ambient-caps={both}")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(path for path in sys.path if path)])
    printed = run_program("setpriv", *words, *python, env={"PATH": os.environ["PATH"], "PYTHONPATH": path}).stdout
    masks = dict(line.split() for line in printed.splitlines() if line.startswith("Cap"))
    assert {int(masks[name], 16) for name in ("CapEff:", "CapPrm:", "CapAmb:")} == {1 << Capability.NET_ADMIN}
