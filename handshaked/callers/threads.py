"""Work that may take any time, because somebody else has a say in it: in threads, so many for each caller."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_RETRY_SECONDS = 0.2


class Chores:
    """Runs a caller's chores in `threads` threads at most; more of them wait for one. For one event loop.

    Reading a file, or closing it, may wait for whoever serves it; closing a socket, for its peer. Nothing waits for
    the threads when the process ends.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._running = 0
        self._waiting: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._retry: asyncio.TimerHandle | None = None

    def run(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Run `work` in a thread, and `then` in the event loop behind it, whatever came of it."""
        self._waiting.append((work, then))
        self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < self._most:
            work, then = self._waiting[0]
            try:
                threading.Thread(target=self._work, args=(loop, work, then), name="chore", daemon=True).start()
            except RuntimeError:  # the system has no more of them
                if self._retry is None:
                    self._retry = loop.call_later(_RETRY_SECONDS, self._start_again)
                return
            del self._waiting[0]
            self._running += 1

    def _start_again(self) -> None:
        self._retry = None
        self._start()

    def _work(self, loop: asyncio.AbstractEventLoop, work: Callable[[], object], then: Callable[[], object]) -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has ended, and everything with it
                loop.call_soon_threadsafe(self._done, then)

    def _done(self, then: Callable[[], object]) -> None:
        self._running -= 1
        self._start()
        then()
