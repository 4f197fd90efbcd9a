"""Return memory to the system after a burst: the C library and Python's allocator keep it otherwise."""

import asyncio
import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_INTERVAL_SECONDS = 10.0
_GROWTH = 8 * 1024 * 1024


class MemoryReturn:
    """Looks every `interval` seconds whether the process has grown by `growth` bytes, and returns what is free then.

    The growth is that of the resident memory `resident` since the smallest value after a look.
    """

    def __init__(
        self,
        trim: Callable[[], object] | None = None,
        resident: Callable[[], int] | None = None,
        interval: float = _INTERVAL_SECONDS,
        growth: int = _GROWTH,
    ) -> None:
        self._trim = trim or release_free_memory
        self._resident = resident or resident_memory
        self._interval = interval
        self._growth = growth
        self._least: int | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with suppress(OSError):  # no descriptor is free: there is more to look at next time
                self._look()
            await asyncio.sleep(self._interval)

    def _look(self) -> None:
        if self._least is None:
            self._least = self._resident()
            return
        if self._resident() - self._least > self._growth:
            self._trim()
        self._least = min(self._least, self._resident())


def release_free_memory() -> None:
    """Return free memory to the system, if the C library can: malloc_trim(3) of glibc."""
    gc.collect(0)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_memory(pid: int | str = "self") -> int:
    """Return the resident memory of the process `pid`, by default of this one, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
