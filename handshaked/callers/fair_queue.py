"""A fair queue: callers share an event loop's time, no matter how much work each of them causes.

While there is little work, all of it runs immediately. After TURN_SECONDS of work, which may come from many
connections, the rest is queued and runs in turns of that length, with the event loop's other callbacks in between. The
caller with the least service so far is next (start-time fair queueing: Goyal, Vin, Cheng 1996), and of its connections
the one that has waited longest. Callers that send something during a turn take part in the choice of the next.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handshaked.callers.account import Account

TURN_SECONDS = 0.001


def call_after_polling(call: Callable[[], None]) -> None:
    """Call `call` after all sockets that are readable by then have been noticed.

    ``call_soon`` alone precedes them: the event loop polls, and then runs first what was planned before.
    """
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, call)


@dataclass(slots=True)
class _Work:
    account: Account
    steps: Iterator[int]
    then: Callable[[bool], None]


class FairQueue:
    """Runs work in turns of `seconds` by `clock`, with `call_soon` between them: by default ``call_after_polling``."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = TURN_SECONDS,
    ) -> None:
        self._call_soon = call_soon or call_after_polling
        self._clock = clock
        self._seconds = seconds
        self._spent = 0.0
        self._planned = False
        self._waiting: dict[Account, deque[_Work]] = {}
        self._virtual_time = 0.0

    def run(self, account: Account, steps: Iterator[int], then: Callable[[bool], None]) -> None:
        """Run `steps` on `account`, now or in a later turn; each step yields the number of bytes it consumed.

        Call `then` with False after each interruption, and with True after the last step.
        """
        work = _Work(account, steps, then)
        if self._planned:
            self._wait(work)
            then(False)
            return
        try:
            self._advance(work)
        finally:
            if self._waiting or self._spent >= self._seconds:
                self._plan()

    def _advance(self, work: _Work) -> None:
        """Run `work` until it is done or the turn is over."""
        account = work.account
        self._virtual_time = account.time_served = max(account.time_served, self._virtual_time)
        started = now = self._clock()
        end = started + self._seconds - self._spent
        count = size = 0
        done = True
        try:
            for step in work.steps:
                count += 1
                size += step
                now = self._clock()
                if now >= end:
                    done = False
                    break
            else:
                now = self._clock()
        finally:  # an error in one caller's work must not stop the work of others
            took = now - started
            self._spent += took
            account.charge(count, size, took, now)
            if not done:
                self._wait(work)
            work.then(done)

    def _wait(self, work: _Work) -> None:
        self._waiting.setdefault(work.account, deque()).append(work)

    def _plan(self) -> None:
        self._planned = True
        self._call_soon(self._next)

    def _next(self) -> None:
        self._spent = 0.0
        try:
            while self._waiting and self._spent < self._seconds:
                account = min(self._waiting, key=lambda one: max(one.time_served, self._virtual_time))
                waiting = self._waiting[account]
                work = waiting.popleft()
                if not waiting:
                    del self._waiting[account]
                self._advance(work)
        finally:
            self._planned = False
            if self._waiting:
                self._plan()
