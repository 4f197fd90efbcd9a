"""Use a record of used tickets while its system calls fail, in a process that has loaded the library.

Arguments: the directory of the library, and a name that makes this process a worker for it.
"""

import resource
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

from handshaked.registry import replay
from handshaked.registry.replay import ReplayRecord
from tests.hostile.faults.injector import ERRORS, Fault, Injector, Process

_FUNCTIONS = ("open", "read", "pread", "pwrite", "fsync", "ftruncate", "stat", "unlink", "lock", "mmap", "close")
_CALLS = 12
_NOW = 2e9


def accepted(record: ReplayRecord, ticket: bytes) -> int:
    """Return how often the record accepts three uses of `ticket`."""
    return sum(record.first_use(ticket, _NOW, _NOW + 60, _NOW) for _ in range(3))


def main() -> None:
    """Fail if a ticket is accepted twice, an error escapes, or the record does not recover."""
    directory = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replay._RETRY_SECONDS = 0.0  # noqa: SLF001 - it is not what is tested
    tickets = (number.to_bytes(16) for number in count())
    faults = [
        Fault(Process.WORKER, function, error, first, last)
        for function in _FUNCTIONS
        for error in ERRORS[function]
        for first, last in [*((number, number) for number in range(1, _CALLS)), (1, 5), (1, 1000)]
    ]
    with Injector(directory) as injector:
        for fault in faults:
            used = [next(tickets) for _ in range(3)]
            with injector.injecting(fault):
                record = ReplayRecord(directory / "used-tickets.db", clock=lambda: _NOW - 1)
                before = [accepted(record, ticket) for ticket in used]
            with closing(record):
                after = [accepted(record, ticket) for ticket in used]
                fresh = accepted(record, next(tickets))
            assert all(sum(uses) <= 1 for uses in zip(before, after, strict=True)), (fault, before, after)
            assert fresh == 1, fault
    print(len(faults))


if __name__ == "__main__":
    main()
