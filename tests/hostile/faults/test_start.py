"""Every system call on storage and sockets fails once while the daemon starts.

It starts nevertheless, if need be with another worker, or exits and says why, once.
"""

from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.hostile.faults.injector import ERRORS, Fault, Injector, Process
from tests.hostile.faults.scene import check_log

pytestmark = [pytest.mark.slow, pytest.mark.needs("cc")]

_STORAGE = ("open", "pread", "pwrite", "fsync", "ftruncate", "mkdir", "lock", "mmap")
_SOCKETS = ("socket", "bind", "listen", "connect", "accept", "getsockopt", "send", "receive", "epoll_ctl", "pipe")
_CASES = [(Process.DAEMON, function) for function in (*_STORAGE, *_SOCKETS)] + [
    (Process.WORKER, function) for function in ("open", "pread", "pwrite", "ftruncate", "mmap", "epoll_ctl", "send")
]


@pytest.fixture(scope="module")
def calls(directory: Path, injector: Injector) -> dict[Process, dict[str, int]]:
    """The number of calls of each function while a daemon starts."""
    found = {}
    for process in Process:
        with injector.counting(process) as found[process], started(directory, injector):
            pass
    return found


def started(directory: Path, injector: Injector) -> RunningDaemon:
    """Return a daemon that is not started yet."""
    return RunningDaemon(directory, workers=1, environment=injector.environment)


@pytest.mark.parametrize(("process", "function"), _CASES, ids=lambda case: getattr(case, "name", case))
def test_daemon_starts_or_says_why_not(
    directory: Path, injector: Injector, calls: dict[Process, dict[str, int]], process: Process, function: str
) -> None:
    count = calls[process][function]
    assert count > 0
    # Not the first call of all: the event loop's own are the first, and nothing is reported before there is a loop.
    for number in sorted({count // 2 + 1, count}):
        daemon = started(directory, injector)
        with injector.injecting(Fault(process, function, ERRORS[function][0], number, number)):
            reason = attempt(daemon)
        daemon.stop()
        log = daemon.log.read_text()
        daemon.log.unlink()
        check_log(log)
        if reason:
            assert "cannot run: " in reason
            with started(directory, injector):
                pass


def attempt(daemon: RunningDaemon) -> str:
    """Start the daemon; return its log if it exits, else an empty string."""
    try:
        daemon.start()
    except RuntimeError as error:
        return str(error)
    return ""
