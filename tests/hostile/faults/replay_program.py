"""Use a record of used tickets while its system calls fail, in a process that has loaded the library.

Arguments: the directory of the library, and a name that makes this process a worker for it.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

from handshaked.registry import replay
from handshaked.registry.replay import ReplayRecord
from tests.hostile.faults.injector import ERRORS, Fault, Injector, Process

_ABSENT = {
    "read": "SQLite reads with pread",
    "write": "SQLite writes with pwrite",
    "rename": "only a damaged record is moved aside, and errors must not be taken for damage",
    **dict.fromkeys(("mkdir", "dup", "readlink", "pipe", "inotify_init", "inotify_add", "thread"), "SQLite needs none"),
    **dict.fromkeys(("socket", "socketpair", "bind", "listen", "connect", "accept"), "there are no sockets"),
    **dict.fromkeys(("getsockopt", "setsockopt", "send", "receive"), "there are no sockets"),
    **dict.fromkeys(("epoll_create", "epoll_ctl", "epoll_wait"), "there is no event loop"),
}
"""The functions that a record does not call, each with the reason."""
_SINGLE = (*range(1, 12), 16, 24, 32, 48, 64)
"""The calls of a function that fail alone."""
_MAX_PLAYS = 3
"""So many times the scene is played until it has met a fault: not all calls occur each time."""
_NOW = 2e9


class Scene:
    """The record in `directory`, used with ever new tickets."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "used-tickets.db"
        self._tickets = (number.to_bytes(16) for number in count())
        self.play()[0].close()

    def play(self) -> tuple[ReplayRecord, dict[bytes, int]]:
        """Use one record and close it; return another one, used and open, and how often each ticket was accepted."""
        found: dict[bytes, int] = {}
        for close in (True, False):
            record = ReplayRecord(self._path, clock=lambda: _NOW - 1)
            found |= {ticket: accepted(record, ticket) for ticket in islice(self._tickets, 3)}
            if close:
                record.close()
        return record, found

    def check(self, record: ReplayRecord, before: dict[bytes, int]) -> None:
        """Fail unless `record` works again, and tickets that were accepted `before` are not accepted again."""
        with closing(record):
            after = {ticket: accepted(record, ticket) for ticket in before}
            assert all(before[ticket] + after[ticket] <= 1 for ticket in before), (before, after)
            assert accepted(record, next(self._tickets)) == 1, "it has not recovered"


def accepted(record: ReplayRecord, ticket: bytes) -> int:
    """Return how often the record accepts three uses of `ticket`."""
    return sum(record.first_use(ticket, _NOW, _NOW + 60, _NOW) for _ in range(3))


def faults(calls: dict[str, int]) -> Iterator[Fault]:
    """Yield the faults of all functions, which are called so many times."""
    for function, number in calls.items():
        if function in _ABSENT:
            assert not number, f"{function} is called: remove it from _ABSENT"
            continue
        assert number, f"{function} is not called: say why not in _ABSENT"
        for error in ERRORS[function]:
            single = [(call, call) for call in _SINGLE if call <= number]
            for first, last in [*single, (1, 5), (1, 1000)]:
                yield Fault(Process.WORKER, function, error, first, last)


def main() -> None:
    """Fail if a ticket is accepted twice, an error escapes, the record does not recover, or a fault is not met."""
    directory = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replay._RETRY_SECONDS = replay._START_SECONDS = 0.0  # noqa: SLF001 - it is not what is tested
    scene = Scene(directory)
    met = 0
    with Injector(directory) as injector:
        with injector.counting(Process.WORKER) as calls:
            scene.play()[0].close()
        for fault in faults(calls):
            with injector.injecting(fault) as injected:
                played = scene.play()
                for _ in range(1, _MAX_PLAYS):
                    if not injected():
                        played[0].close()
                        played = scene.play()
                assert injected(), f"{fault}: not met in {_MAX_PLAYS} plays"
            try:
                scene.check(*played)
            except AssertionError as error:
                raise AssertionError(f"{fault}: {error}") from error
            met += 1
    print(met)


if __name__ == "__main__":
    main()
