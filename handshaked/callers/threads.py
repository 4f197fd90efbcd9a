"""Run potentially blocking work in daemon threads, so that it does not block the event loop.

A file server (FUSE or remote) can delay open, fstat, read and close without limit, and so can the peer of a lingering
socket. The process does not wait for these threads when it ends.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from handshaked.errors import RefusedError
from handshaked.wire.attached import close_all

T = TypeVar("T")

_RETRY_SECONDS = 0.2


class Threads:
    """Runs a caller's work in at most `limit` threads; further work is queued. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiting: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._retry: asyncio.TimerHandle | None = None

    def run(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Run `work` in a thread, then call `then` in the event loop, even if `work` failed."""
        self._waiting.append((work, then))
        self._start()

    def _start(self) -> None:
        while self._waiting and self._running < self._limit:
            work, then = self._waiting[0]
            try:
                _start_thread(work, partial(self._done, then))
            except RuntimeError:  # the system has no more threads
                if self._retry is None:
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._start_again)
                return
            del self._waiting[0]
            self._running += 1

    def _start_again(self) -> None:
        self._retry = None
        self._start()

    def _done(self, then: Callable[[], object]) -> None:
        self._running -= 1
        self._start()
        then()


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` in a thread of its own and return its result; it continues when the result is no longer awaited.

    RefusedError if the system has no more threads.
    """
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    outcome: list[Callable[[], None]] = []

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where the result is awaited
            failure = error
            outcome.append(lambda: done.set_exception(failure))
        else:
            outcome.append(lambda: done.set_result(result))

    def report() -> None:
        if not done.done():
            outcome[0]()

    try:
        _start_thread(run, report)
    except RuntimeError as error:
        raise RefusedError(f"the system has no more threads, try again later: {error}") from None
    return done


def close_in_thread(descriptors: tuple[int, ...]) -> asyncio.Future[None]:
    """Close `descriptors` that another process has opened."""
    if descriptors:
        with suppress(RefusedError):  # no thread: close them here
            return in_thread(lambda: close_all(descriptors))
        close_all(descriptors)
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed.set_result(None)
    return closed


def _start_thread(work: Callable[[], object], done: Callable[[], object]) -> None:
    """Run `work` in a thread, then call `done` in the event loop. RuntimeError if the system has no more threads."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has ended, and everything with it
                loop.call_soon_threadsafe(done)

    threading.Thread(target=run, name="blocking-work", daemon=True).start()
