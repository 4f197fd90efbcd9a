"""Privileges of workers: they parse input of strangers, and drop unneeded privileges before they begin."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from handshaked.registry.store import Source
from handshaked.system.capabilities import Capability
from handshaked.testing.daemon import RunningDaemon
from tests.patience import run_program
from tests.plugins.needs import need, public_python

pytestmark = pytest.mark.needs("root")

UID = 54321
WITHOUT_CAPSET = """
import ctypes, os, struct, sys
capset = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
load, jump_if_equal, ret = 0x20, 0x15, 0x06
allow, fail_with_eperm = 0x7FFF0000, 0x00050001
program = ((load, 0, 0, 0), (jump_if_equal, 0, 1, capset), (ret, 0, 0, fail_with_eperm), (ret, 0, 0, allow))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
filter = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
assert libc.prctl(22, 2, filter) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execv(sys.argv[1], sys.argv[1:])
"""
REPORTING_SANDBOX = """
from pathlib import Path
from handshaked.control.requests import loading_sandbox
from handshaked.errors import RefusedError

def report(source, contents):
    raise RefusedError(Path("/proc/self/status").read_text())

loading_sandbox.load = report
loading_sandbox.main()
"""


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def effective(pid: int) -> set[Capability]:
    """Return the effective capabilities of a process, the same in all its threads; every one must be known."""
    threads = [status_of(int(path.name)) for path in Path(f"/proc/{pid}/task").iterdir()]
    [mask] = {int(thread["CapEff"], 16) for thread in threads}
    found = {capability for capability in Capability if mask >> capability & 1}
    assert mask == sum(1 << capability for capability in found)
    return found


@contextmanager
def workers(directory: Path, *options: str) -> Iterator[list[int]]:
    """Run a daemon of root with two workers, which have a thread for the log. Yield their pids."""
    with RunningDaemon(directory, options=("--log-format=journal", *options)) as daemon:
        assert int(status_of(daemon.pid)["CapEff"], 16) >> Capability.DAC_READ_SEARCH & 1, "the parent reads files"
        yield daemon.worker_pids()


def test_worker_cannot_read_files_of_others(public_directory: Path) -> None:
    """CAP_DAC_READ_SEARCH: the parent reads the files that the configuration names."""
    with workers(public_directory, "--kernel") as pids:
        assert not any(Capability.DAC_READ_SEARCH in effective(pid) for pid in pids)


def test_worker_without_kernel_upcalls_cannot_administer_the_network(public_directory: Path) -> None:
    with workers(public_directory, "--no-kernel") as pids:
        assert [effective(pid) for pid in pids] == [set()] * 2


def test_worker_with_kernel_upcalls_can_administer_the_network_and_nothing_else(public_directory: Path) -> None:
    with workers(public_directory, "--kernel") as pids:
        assert [effective(pid) for pid in pids] == [{Capability.NET_ADMIN}] * 2


def test_worker_keeps_what_entering_other_network_namespaces_needs(public_directory: Path) -> None:
    with workers(public_directory, "--kernel", "--netns=.", "--netns=other") as pids:
        assert [effective(pid) for pid in pids] == [{Capability.NET_ADMIN, Capability.SYS_ADMIN}] * 2


def test_worker_cannot_regain_privileges(public_directory: Path) -> None:
    with workers(public_directory, "--kernel") as pids:
        for pid in pids:
            status = status_of(pid)
            assert status["CapPrm"] == status["CapEff"]
            assert (int(status["CapInh"], 16), int(status["CapAmb"], 16)) == (0, 0)
            assert status["NoNewPrivs"] == "1", "executing a program as root would return all of them"


def test_daemon_does_not_serve_if_its_workers_keep_privileges(public_directory: Path) -> None:
    daemon = RunningDaemon(public_directory, workers=1, launcher=(sys.executable, "-c", WITHOUT_CAPSET))
    with pytest.raises(RuntimeError) as failed:
        daemon.start()
    advice = "if the service runs as root, add SystemCallFilter=capset to its unit"
    [end] = [line for line in str(failed.value).splitlines() if "cannot run: no worker can start" in line]
    assert advice in end
    assert f"the worker cannot start: capabilities cannot be given up: Operation not permitted; {advice}" in str(
        failed.value
    )


def test_workers_of_an_ordinary_user_inherit_only_what_they_need(public_directory: Path) -> None:
    """Without capset(2), which the filter of handshaked.service refuses."""
    need("public python", "setpriv")
    public_directory.chmod(0o777)
    both = "+net_admin,+dac_read_search"
    launcher = (
        "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", f"--inh-caps={both}", f"--ambient-caps={both}",
    )  # fmt: skip
    packages = [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
    daemon = RunningDaemon(
        public_directory, options=("--kernel",), launcher=launcher, python=str(public_python()),
        environment={"PYTHONPATH": os.pathsep.join(packages)},
    )  # fmt: skip
    with daemon:
        assert effective(daemon.pid) == {Capability.NET_ADMIN, Capability.DAC_READ_SEARCH}
        assert [effective(pid) for pid in daemon.worker_pids()] == [{Capability.NET_ADMIN}] * 2


def test_sandbox_for_key_files_has_no_capabilities() -> None:
    """It parses files of ordinary users."""
    asked = {"source": asdict(Source("certificate.pem", "key.pem")), "contents": ["", ""]}
    answer = json.loads(run_program(sys.executable, "-c", REPORTING_SANDBOX, input=json.dumps(asked)).stdout)
    masks = dict(line.split() for line in answer["error"].splitlines() if line.startswith("Cap"))
    assert {int(masks[name], 16) for name in ("CapEff:", "CapPrm:", "CapInh:", "CapAmb:")} == {0}
