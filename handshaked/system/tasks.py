"""Tasks that run beside others, kept as long as they run: nobody waits for them, so the log tells how they fail."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of `whose`, a word for the log."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def keep(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Begin `work`, and log whatever ends it that it does not handle."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> None:
        """End them all."""
        for task in self._running:
            task.cancel()

    async def end(self) -> None:
        """End them all, and wait until they have."""
        self.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of %s ended unexpectedly", self._whose, exc_info=task.exception())
