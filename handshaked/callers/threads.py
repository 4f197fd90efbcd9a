"""Run potentially blocking work in daemon threads, so that no event loop waits for somebody else.

Whoever serves a file (FUSE, or a remote file server) can make open, fstat, read and close wait for as long as it likes;
so can the peer of a lingering socket. Nothing waits for these threads when the process ends.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from handshaked.errors import RefusedError
from handshaked.wire.json_packets import close_all

T = TypeVar("T")

_RETRY_SECONDS = 0.2


class Threads:
    """Run a caller's work in at most `limit` threads; further work waits for one. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiting: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._retry: asyncio.TimerHandle | None = None

    def run(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Run `work` in a thread, then `then` in the event loop, whether `work` failed or not."""
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
    """Return what `work` returns or raises in a thread of its own; it goes on when nobody waits for it any more.

    Raise RefusedError if the system has no more threads.
    """
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    outcome: list[Callable[[], None]] = []

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where it is waited for
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
        raise RefusedError(f"too much is going on at a time, try again later: {error}") from None
    return done


def close_in_thread(descriptors: tuple[int, ...]) -> asyncio.Future[None]:
    """Close `descriptors`, which somebody else has opened."""
    if descriptors:
        with suppress(RefusedError):  # without a thread: close them here rather than never
            return in_thread(lambda: close_all(descriptors))
        close_all(descriptors)
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed.set_result(None)
    return closed


def _start_thread(work: Callable[[], object], done: Callable[[], object]) -> None:
    """Run `work` in a thread and call `done` in the event loop afterwards. RuntimeError: no more threads."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has ended, and everything with it
                loop.call_soon_threadsafe(done)

    threading.Thread(target=run, name="blocking-work", daemon=True).start()
