"""Reading files that others name or hand over: beside the event loop, one after the other for each user.

Whose files do not come, or take long to load, waits alone.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from handshaked.callers.threads import close_in_thread, in_thread
from handshaked.errors import RefusedError
from handshaked.wire.json_packets import close_all

READ_SECONDS = 30.0

T = TypeVar("T")


class Readers:
    """One thread at a time for each user whose files are read."""

    def __init__(self) -> None:
        self._busy: dict[int, asyncio.Future[Any]] = {}
        self._overdue: set[int] = set()

    async def read(
        self,
        uid: int,
        work: Callable[[tuple[int, ...]], T],
        descriptors: tuple[int, ...] = (),
        seconds: float | None = READ_SECONDS,
    ) -> T:
        """What `work` gives for the files of `uid`, called with copies of `descriptors`.

        RefusedError if that is not done within `seconds`, or if something else has not been done for so long.
        """
        try:
            async with asyncio.timeout(seconds):
                while uid in self._busy:
                    if uid in self._overdue:
                        raise TimeoutError
                    await asyncio.wait([self._busy[uid]])
                return await asyncio.shield(self._begin(uid, work, descriptors))
        except TimeoutError:
            if uid in self._busy:
                self._overdue.add(uid)
            raise RefusedError(f"files of uid {uid} could not be read in time") from None

    def _begin(self, uid: int, work: Callable[[tuple[int, ...]], T], descriptors: tuple[int, ...]) -> asyncio.Future[T]:
        own: list[int] = []  # who waits may give up, and closes its own then

        def run() -> T:
            try:
                return work(tuple(own))
            finally:
                close_all(tuple(own))

        try:
            for descriptor in descriptors:
                own.append(os.dup(descriptor))  # noqa: PERF401 - those that there are have to be closed
            done = in_thread(run)
        except (OSError, RefusedError):
            close_in_thread(tuple(own))
            raise
        self._busy[uid] = done
        done.add_done_callback(lambda _: self._ended(uid, done))
        return done

    def _ended(self, uid: int, done: asyncio.Future[Any]) -> None:
        del self._busy[uid]
        self._overdue.discard(uid)
        done.exception()  # perhaps nobody waits for it any more
