"""Runs the self-test periodically and reports success to systemd, which restarts the daemon otherwise."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from handshaked.errors import UnavailableError
from handshaked.system.systemd import notify, watchdog_interval

log = logging.getLogger(__name__)

_DEFAULT_SECONDS = 30.0
_FIRST_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
_RETRY_SECONDS = 2.0
NOT_YET = "not run yet"
OK = "ok"


class Watchdog:
    """Runs `check`, which replaces hung workers, and `self_test`; ``state`` is the result of the last self-test."""

    def __init__(self, self_test: Callable[[], Awaitable[str | None]], check: Callable[[], Awaitable[None]]) -> None:
        self.state = NOT_YET
        self._self_test = self_test
        self._check_workers = check
        interval = watchdog_interval()
        self._seconds = _DEFAULT_SECONDS if interval is None else interval / 3

    async def run(self) -> None:
        """Run periodically until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(self._seconds if self.state == OK else min(self._seconds, _RETRY_SECONDS))

    async def first_beat(self) -> None:
        """Run the checks at the start of the daemon; UnavailableError if the self-test fails each time."""
        for _ in range(_FIRST_ATTEMPTS):
            await self.beat()
            if self.state == OK:
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        raise UnavailableError(f"the self-test failed {_FIRST_ATTEMPTS} times: {self.state}")

    async def beat(self) -> None:
        """Run the checks once."""
        await self._check_workers()
        failure = await self._self_test()
        if failure is None:
            states = {"WATCHDOG": "1"}
            if self.state not in (OK, NOT_YET):
                log.info("the self-test succeeds again")
                states["STATUS"] = "the self-test succeeds again"
            self.state = OK
            notify(**states)
        else:
            if self.state != failure:
                log.error("the self-test failed: %s", failure)
            self.state = failure
            notify(STATUS=f"the self-test failed: {failure}")
