"""Background tasks: they are referenced while they run, and their errors are logged, because nobody awaits them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0


class Tasks:
    """The background tasks of `owner`, a name for the log. `pause` is the time in seconds before a first restart."""

    def __init__(self, owner: str, pause: float = 1.0) -> None:
        self._owner = owner
        self._pause = pause
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Start `work` as a task; log an exception that it does not handle."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, object]]) -> asyncio.Task[Any]:
        """Start `work()` as a task; after an exception, log it and start it again, after ever longer pauses."""
        return self.start(self._restarting(work))

    async def _restarting(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        pause = self._pause
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await work()
            except Exception:  # a boundary: what others depend on must not end because of one fault
                if asyncio.get_running_loop().time() - started > LONGEST_PAUSE:
                    pause = self._pause
                log.error(
                    "a task of %s ended unexpectedly, it is started again in %g s", self._owner, pause, exc_info=True
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._running:
            task.cancel()

    async def end(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        self.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of %s ended unexpectedly", self._owner, exc_info=task.exception())
