"""Fails a run that leaves something behind: processes, directories, mounts, or network namespaces.

Everything that a test leaves carries the name of the run: processes in their environment or on their command line,
the rest in its path; see tests/run_name.py.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.run_name import RUN, VARIABLE

_PATIENCE = 20.0


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Look around after everything is torn down, xdist's workers included."""
    yield
    if hasattr(session.config, "workerinput"):
        return
    left = leftovers(RUN)
    if left:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_sep("=", "the run left something behind", red=True)
        for line in left:
            reporter.write_line(line)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def leftovers(name: str) -> list[str]:
    """Return a line for everything that the run `name` left behind; kill its processes."""
    deadline = time.monotonic() + _PATIENCE
    while (processes := _processes(name)) and time.monotonic() < deadline:
        time.sleep(0.05)  # for processes that have been told to end
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    prefix = f"handshaked-{name}-"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if prefix in line]
    namespaces = Path("/run/netns").glob(f"{prefix}*")
    return [
        *(f"process {pid}: {line}" for pid, line in processes.items()),
        *(f"mount: {mount}" for mount in mounts),
        *(f"network namespace: {namespace}" for namespace in namespaces),
        *(f"directory: {path}" for path in Path(tempfile.gettempdir()).glob(f"{prefix}*")),
    ]


def _processes(name: str) -> dict[int, str]:
    """Return the command lines of the processes of the run `name` by their numbers, those of this process excluded."""
    marks = (f"{VARIABLE}={name}".encode(), f"handshaked-{name}-".encode())
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        if int(directory.name) in _own_line():
            continue
        texts = []
        for file in ("cmdline", "environ"):
            with suppress(OSError):  # it ended, or another user's environment is not for us
                texts.append((directory / file).read_bytes())
        if any(mark in text for mark in marks for text in texts):
            found[int(directory.name)] = texts[0].replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _own_line() -> set[int]:
    """Return this process and its ancestors."""
    line, pid = set(), os.getpid()
    while pid:
        line.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return line
