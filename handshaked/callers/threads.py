"""Run potentially blocking work in daemon threads, so that it does not block the event loop.

A file server (FUSE or remote) can delay open, fstat, read and close without limit, and so can the peer of a lingering
socket. The process does not wait for these threads when it ends.
"""

import _thread
import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

TOTAL = 128
RESERVE = 32
_RETRY_SECONDS = 0.2
_MAX_IDLE = 8  # threads without work that are kept: most work takes less time than starting a thread


class ThreadPool:
    """The limit on the threads of all callers together: `total`, of which `reserve` are for privileged ones.

    The fewer threads are left, the fewer a caller may have: each at most as many as are left for others (dynamic
    thresholds: Choudhury, Hahne 1998). So a few callers cannot take them all.
    """

    def __init__(self, total: int = TOTAL, reserve: int = RESERVE) -> None:
        self._total = total
        self._reserve = reserve
        self._running = 0
        self._waiting: dict[Threads, None] = {}

    def has_room(self, running: int, *, privileged: bool) -> bool:
        """Return whether a caller with `running` threads may start another one."""
        return running < self._total - self._running - (0 if privileged else self._reserve)

    def started(self) -> None:
        """Count a thread more."""
        self._running += 1

    def ended(self) -> None:
        """Count a thread less, and let those who wait for one try again, in the order in which they began to wait."""
        self._running -= 1
        for threads in list(self._waiting):
            del self._waiting[threads]
            threads.start()

    def await_room(self, threads: "Threads") -> None:
        """Call ``start`` of `threads` when a thread has ended."""
        self._waiting[threads] = None


class Threads:
    """Runs a caller's work in at most `limit` threads of `pool`; further work is queued. For one event loop."""

    def __init__(self, limit: int, pool: ThreadPool | None = None, *, privileged: bool = False) -> None:
        self._limit = limit
        self._pool = pool or ThreadPool()
        self._privileged = privileged
        self._running = 0
        self._queue: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """True if no work is queued or running."""
        return not self._running and not self._queue

    def run(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        """Run `work` in a thread, then call `then` in the event loop, even if `work` failed."""
        self._queue.append((work, then))
        self.start()

    def result(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` in a thread and return its result; it continues when the result is no longer awaited."""
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

        self.run(run, report)
        return done

    def start(self) -> None:
        """Start as many threads for queued work as the limits allow."""
        while self._queue and self._running < self._limit:
            if not self._pool.has_room(self._running, privileged=self._privileged):
                self._pool.await_room(self)
                return
            work, then = self._queue[0]
            try:
                run_in_thread(work, partial(self._done, then))
            except RuntimeError:  # the system has no more threads
                if self._retry is None:
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._start_again)
                return
            del self._queue[0]
            self._running += 1
            self._pool.started()

    def _start_again(self) -> None:
        self._retry = None
        self.start()

    def _done(self, then: Callable[[], object]) -> None:
        self._running -= 1
        self._pool.ended()
        self.start()
        then()


@dataclass(slots=True)
class _Work:
    loop: asyncio.AbstractEventLoop
    run: Callable[[], object]
    done: Callable[[], object]


_Inbox = SimpleQueue[_Work]
_idle: deque[_Inbox] = deque()
"""Inboxes of this process's threads without work, whose operations are atomic."""


def run_in_thread(work: Callable[[], object], done: Callable[[], object]) -> None:
    """Run `work` in a thread, then call `done` in the event loop. RuntimeError if the system has no more threads."""
    one = _Work(asyncio.get_running_loop(), work, done)
    try:
        _idle.pop().put(one)
    except IndexError:
        # Unlike Thread.start, this does not wait until the thread runs, for which all others must pause.
        _thread.start_new_thread(_serve, (one,))


def _serve(work: _Work) -> None:
    """Do `work` and what follows in this thread's inbox."""
    inbox: _Inbox = SimpleQueue()
    while True:
        done = work.done
        try:
            work.run()
        except BaseException as error:  # the event loop logs it
            done = partial(_report, work.loop, error, done)
        kept = len(_idle) < _MAX_IDLE
        if kept:
            _idle.append(inbox)
        with suppress(RuntimeError):  # the loop has ended, and everything with it
            work.loop.call_soon_threadsafe(done)
        if not kept:
            return
        del work, done  # nothing of it lives on while there is no more work
        work = inbox.get()


def _report(loop: asyncio.AbstractEventLoop, error: BaseException, done: Callable[[], object]) -> None:
    loop.call_exception_handler({"message": "unexpected error of work in a thread", "exception": error})
    done()
