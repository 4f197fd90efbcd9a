"""Every system call on storage and sockets fails while the daemon starts.

It starts nevertheless, if need be with another worker, or exits and says why, once. Each fault is met: a function that
a process does not call is listed with the reason.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.hostile.faults.injector import ERRORS, FUNCTIONS, Fault, Injector, Process
from tests.hostile.faults.scene import check_log

pytestmark = [pytest.mark.slow, pytest.mark.needs("cc")]

_MAX_STARTS = 3
"""So many times the daemon is started until it has met a fault: not all calls occur each time."""
_BY_LOOP = "only the event loop calls it, before there is anything to test: asyncio adds a traceback of its own"
_LEFT_OUT = {
    (Process.DAEMON, "epoll_create"): _BY_LOOP,
    (Process.WORKER, "epoll_create"): _BY_LOOP,
    (Process.WORKER, "socketpair"): _BY_LOOP,
    (Process.DAEMON, "unlock"): "SQLite waits for ten seconds: see test_campaign",
}
"""The functions that a process calls without a fault, each with the reason."""
_BY_PARENT = "the parent makes the sockets, watches the files of callers and writes the registry"
_ABSENT = {
    Process.DAEMON: {
        "write": "all files that are written are SQLite's, which it writes with pwrite",
        "rename": "nothing is renamed but damaged records of used tickets",
        "dup": "only files of callers are duplicated",
    },
    Process.WORKER: {
        "write": "all files that are written are SQLite's, which it writes with pwrite",
        "rename": "nothing is renamed but damaged records of used tickets",
        **dict.fromkeys(("dup", "readlink", "pipe", "inotify_init", "inotify_add"), _BY_PARENT),
        **dict.fromkeys(("fsync", "unlink", "mkdir", "socket", "bind", "listen", "connect"), _BY_PARENT),
        "thread": "nothing blocks at the start",
    },
}
"""The functions that a process does not call at its start, each with the reason."""


@pytest.fixture(scope="module")
def calls(directory: Path, injector: Injector) -> Iterator[dict[Process, dict[str, int]]]:
    """The number of calls of each function while a daemon starts, before all faults; it also starts after them."""
    found = {}
    with daemon_in(directory, injector):  # it makes the database
        pass
    for process in Process:
        daemon = daemon_in(directory, injector)
        with injector.counting(process) as found[process]:
            daemon.start()
        daemon.stop()
    yield found
    with daemon_in(directory, injector):
        pass


def daemon_in(directory: Path, injector: Injector) -> RunningDaemon:
    """Return a daemon that is not started yet."""
    return RunningDaemon(directory, workers=1, environment=injector.environment)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("process", Process, ids=lambda process: process.name.lower())
def test_daemon_starts_or_says_why_not(
    directory: Path, injector: Injector, calls: dict[Process, dict[str, int]], process: Process, function: str
) -> None:
    count = calls[process][function]
    if function in _ABSENT[process]:
        assert count == 0, f"{function} is called: remove it from _ABSENT"
        return
    assert count > 0, f"{function} is not called: say why not in _ABSENT"
    if (process, function) in _LEFT_OUT:
        return
    # Not the first call of all, which is often the event loop's own.
    middle = count // 2 + 1
    fault = Fault(process, function, ERRORS[function][0], middle, count, max(1, count - middle))
    assert any(check(directory, injector, fault) for _ in range(_MAX_STARTS)), f"not met in {_MAX_STARTS} starts"


def check(directory: Path, injector: Injector, fault: Fault) -> bool:
    """Start a daemon with `fault`, and check that it copes; return whether it has met the fault.

    If the first call that fails has ended it, start another one for the last.
    """
    daemon = daemon_in(directory, injector)
    with injector.injecting(fault) as injected:
        reason = attempt(daemon)
        met = injected()
    daemon.stop()
    log = daemon.log.read_text()
    daemon.log.unlink()
    check_log(log)
    if reason:
        assert "cannot run: " in reason
        assert met, "an earlier start has left something that keeps the daemon from starting"
        if met == 1 and fault.first < fault.last:
            check(directory, injector, replace(fault, first=fault.last))
    return met > 0


def attempt(daemon: RunningDaemon) -> str:
    """Start the daemon; return its log if it exits, else an empty string."""
    try:
        daemon.start()
    except RuntimeError as error:
        return str(error)
    return ""
