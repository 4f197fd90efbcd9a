"""Read files that users name or pass, and look up names of users, in threads: one at a time for each user.

Subordinate uids count as their owner (``owners``): with a thread for each, one user could keep all of them busy.

A user whose files are slow, such as on an unresponsive network file system, delays nobody else.
"""

import asyncio
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from handshaked.callers.owners import owner_of
from handshaked.callers.threads import ThreadPool, Threads
from handshaked.errors import HandshakedError, RefusedError
from handshaked.wire.attached import close_all

log = logging.getLogger(__name__)

READ_SECONDS = 30.0

T = TypeVar("T")


class Readers:
    """At most one thread for each user whose files are read, and no more in all than `pool` has."""

    def __init__(self, pool: ThreadPool | None = None) -> None:
        self._pool = pool or ThreadPool()
        self._privileged = {0, os.geteuid()}
        self._busy: dict[int, asyncio.Future[Any]] = {}
        self._overdue: set[int] = set()

    async def read(
        self,
        uid: int,
        work: Callable[[tuple[int, ...]], T],
        descriptors: tuple[int, ...] = (),
        seconds: float | None = READ_SECONDS,
    ) -> T:
        """Return the result of `work`, which reads files of `uid` and is called with duplicates of `descriptors`.

        RefusedError if it takes longer than `seconds`, or if an earlier read for this user already does.
        """
        owner = owner_of(uid)
        try:
            async with asyncio.timeout(seconds):
                while owner in self._busy:
                    if owner in self._overdue:
                        raise TimeoutError
                    await asyncio.wait([self._busy[owner]])
                done = self._busy[owner] = self._begin(uid, work, descriptors)
                done.add_done_callback(partial(self._ended, owner))
                return await asyncio.shield(done)
        except TimeoutError:
            if owner in self._busy:
                self._overdue.add(owner)
            raise RefusedError(f"files of uid {uid} could not be read in time") from None

    def _begin(self, uid: int, work: Callable[[tuple[int, ...]], T], descriptors: tuple[int, ...]) -> asyncio.Future[T]:
        own: list[int] = []  # duplicates: the caller may time out and close the originals

        def run() -> T:
            try:
                with contained(f"files of uid {uid}"):
                    return work(tuple(own))
            finally:
                close_all(tuple(own))

        threads = Threads(1, self._pool, privileged=uid in self._privileged)
        try:
            for descriptor in descriptors:
                own.append(os.dup(descriptor))  # noqa: PERF401 - on an error, those already duplicated must be closed
        except OSError:
            threads.run(partial(close_all, own), lambda: None)
            raise
        return threads.result(run)

    def _ended(self, owner: int, done: asyncio.Future[Any]) -> None:
        del self._busy[owner]
        self._overdue.discard(owner)
        done.exception()  # mark it as retrieved: the caller may have timed out


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Log an exception that no parser should raise, and turn it into RefusedError: `what` costs nobody else.

    The exception's text stays out of the log: it may quote a file, which may hold a key.
    """
    try:
        yield
    except (OSError, HandshakedError):
        raise
    except Exception as error:  # a boundary: users choose the files, and others depend on what follows
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("unexpected %s in %s, raised in %s:%d", type(error).__name__, what, place.filename, place.lineno or 0)
        raise RefusedError(f"internal error ({type(error).__name__}): see the daemon's log, and report it") from None
