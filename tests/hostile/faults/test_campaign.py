"""Every system call on storage, sockets and the bus fails once and several times, in each process of a running daemon.

Callers get an answer in time, the log one clear message, and as soon as the fault is over everything works without a
restart. No registration is lost. Each fault is met: a function that a process does not call is listed with the reason.
"""

from collections.abc import Iterator

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.hostile.faults.injector import ERRORS, FUNCTIONS, Fault, Injector, Process
from tests.hostile.faults.scene import Scene, check

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "cc", "dbus-daemon")]

_BURST = 5
"""So many calls in a row fail in the longest fault: a second's worth of those that are tried again."""
_SINGLE = (1, 2, 3, 5, 8, 13, 21, 34)
"""The calls of a function that fail alone."""
_AT_START = "the sockets, files and event loop are made at the start: see test_start"
_BY_PARENT = "only the parent reads the files of callers and writes the registry"
_BY_SQLITE = "all files that are written are SQLite's, which it writes with pwrite"
_RARE = {
    Process.DAEMON: {
        "pread": "the registry's pages are in SQLite's cache, as nobody else writes them",
        "ftruncate": "SQLite reuses the log's file",
        "thread": "idle threads take further work",
    },
    Process.WORKER: {"thread": "only closing what callers attach takes threads, and they attach nothing"},
}
"""The functions that a process does not call in each play of the scene, each with the reason."""
_ABSENT = {
    Process.DAEMON: {
        "write": _BY_SQLITE,
        "rename": "nothing is renamed but damaged records of used tickets",
        **dict.fromkeys(("unlink", "mkdir", "mmap", "epoll_create", "inotify_init"), _AT_START),
        **dict.fromkeys(("socket", "socketpair", "bind", "listen", "connect", "pipe"), _AT_START),
    },
    Process.WORKER: {
        "write": _BY_SQLITE,
        **dict.fromkeys(("read", "pwrite", "fsync", "ftruncate", "dup", "readlink", "inotify_add"), _BY_PARENT),
        **dict.fromkeys(("open", "stat", "close"), "the registry stays open, and nobody uses early data"),
        **dict.fromkeys(("unlink", "mkdir", "rename", "inotify_init", "pipe"), _BY_PARENT),
        **dict.fromkeys(("socket", "bind", "listen", "connect"), "the parent makes the sockets and passes them on"),
        **dict.fromkeys(("mmap", "socketpair", "epoll_create"), _AT_START),
    },
}
"""The functions that a process does not call in the scene, each with the reason."""


def faults(process: Process, function: str, calls: int) -> Iterator[Fault]:
    """Yield the faults of `function`, of which `process` makes so many `calls`."""
    for error in ERRORS[function]:
        for number in _SINGLE:
            if number <= calls:
                yield Fault(process, function, error, number, number)
        yield Fault(process, function, error, 1, _BURST)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("process", Process, ids=lambda process: process.name.lower())
def test_daemon_survives_each_fault(
    daemon: RunningDaemon, scene: Scene, injector: Injector, process: Process, function: str
) -> None:
    pid, workers = daemon.pid, daemon.worker_pids()
    with injector.counting(process) as calls:
        scene.play(daemon)
    if function in _ABSENT[process]:
        assert not calls[function], f"{function} is called: remove it from _ABSENT"
    if function in _ABSENT[process] | _RARE[process]:
        return
    assert calls[function], f"{function} is not called: extend the scene, or say why not in _ABSENT"
    for fault in faults(process, function, calls[function]):
        try:
            check(daemon, scene, injector, fault)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"{fault}: {error}\n{daemon.log.read_text()[-8000:]}") from error
    assert (daemon.ask("status")["pid"], daemon.worker_pids()) == (pid, workers)
