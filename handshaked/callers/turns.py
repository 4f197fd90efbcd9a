"""Turns of coroutines: callers share an event loop's time fairly, as with ``FairQueue``, from one await to the next.

While there is little work, all of it runs immediately. After TURN_SECONDS of work, one segment of a coroutine, from one
of its awaits to the next, runs in each pass of the event loop. The caller with the least service so far is next.
"""

import asyncio
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from handshaked.callers.account import Account
from handshaked.callers.fair_queue import TURN_SECONDS, call_after_polling

T = TypeVar("T")


class Turns:
    """Runs coroutines of callers; time is measured by `clock`. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[Account, deque[asyncio.Future[None]]] = {}
        self._granted: asyncio.Future[None] | None = None
        self._planned = False
        self._spent = 0.0
        self._virtual_time = 0.0

    @types.coroutine
    def run(self, account: Account, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Return the result of `work`; the time of each of its segments is charged to `account`."""
        error: BaseException | None = None
        while True:
            turn = None
            try:
                if error is None:
                    turn = yield from self._turn(account).__await__()
            except asyncio.CancelledError as canceled:
                error = canceled
            started = self._clock()
            try:
                awaited = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                if self._granted is turn:
                    self._granted = None
                self._charge(account, self._clock() - started)
            error = None
            try:
                yield awaited
            except BaseException as raised:  # raised again in the coroutine
                error = raised

    async def _turn(self, account: Account) -> asyncio.Future[None] | None:
        """Wait until `account` may run a segment; return the turn that it was granted, None if it did not wait."""
        turn: asyncio.Future[None] | None = None
        if self._planned or self._granted is not None:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(account, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if self._granted is turn:
                    self._granted = None
                    self._plan()
                raise
        self._virtual_time = account.time_served = max(account.time_served, self._virtual_time)
        return turn

    def _charge(self, account: Account, seconds: float) -> None:
        self._spent += seconds
        account.charge(1, 0, seconds, self._clock())
        if self._waiting or self._spent >= TURN_SECONDS:
            self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            call_after_polling(self._next)

    def _next(self) -> None:
        self._planned = False
        self._spent = 0.0
        while self._waiting:
            account = min(self._waiting, key=lambda one: max(one.time_served, self._virtual_time))
            turns = self._waiting[account]
            turn = turns.popleft()
            if not turns:
                del self._waiting[account]
            if not turn.cancelled():
                self._granted = turn
                turn.set_result(None)
                return
