"""Memory is returned to the system after a burst."""

import asyncio
import errno
import sys

import pytest

from handshaked.system.memory import MemoryReturn, resident_memory
from tests.patience import run_program, soon

BURST = """
import gc
from handshaked.system.memory import release_free_memory, resident_memory
gc.disable()
before = resident_memory()
burst = [bytes(20_000) for _ in range(4_000)]
last = bytes(20_000)  # above the burst in the heap
del burst
during = resident_memory()
release_free_memory()
print(during - before, resident_memory() - before)
"""


def test_free_memory_is_returned() -> None:
    during, after = map(int, run_program(sys.executable, "-c", BURST).stdout.split())
    assert during > 60_000_000
    assert after < during / 4


@pytest.mark.parametrize(
    ("sizes", "trims"),
    [([100, 105, 110], 0), ([100, 111], 1), ([100, 200, 150, 105], 2), ([100, 50, 61], 1)],
    ids=["steady", "grown", "a burst that goes on", "smaller than at the start"],
)
def test_memory_is_returned_when_the_process_has_grown(sizes: list[int], trims: int) -> None:
    trimmed: list[int] = []

    async def scenario() -> None:
        done = asyncio.Event()
        readings = iter([sizes[0], *(size for size in sizes[1:] for _ in range(2))])

        def read() -> int:
            size = next(readings, None)
            if size is None:
                done.set()
            return 0 if size is None else size

        work = asyncio.create_task(MemoryReturn(lambda: trimmed.append(1), read, 0.0, 10).run())
        await soon(done.wait())
        work.cancel()

    asyncio.run(scenario())
    assert len(trimmed) == trims


def test_resident_memory_is_in_bytes() -> None:
    assert 1_000_000 < resident_memory() < 10**12


def test_looking_goes_on_when_no_descriptor_was_free() -> None:
    trimmed = asyncio.Event()
    readings: list[int | None] = [None, 100, None, 111]

    def read() -> int:
        size = readings.pop(0) if readings else 111
        if size is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return size

    async def scenario() -> None:
        work = asyncio.create_task(MemoryReturn(trimmed.set, read, 0.0, 10).run())
        await soon(trimmed.wait())
        work.cancel()

    asyncio.run(scenario())
