"""Proves every few seconds that handshakes are done, and tells systemd so; without proof it restarts the daemon."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from handshaked.system.systemd import notify, watchdog_interval

log = logging.getLogger(__name__)

_DEFAULT_SECONDS = 30.0
NOT_YET = "not done yet"


class Watchdog:
    """Runs `self_test` (None, or why it failed) and `check_workers` in turn. ``state`` says how the last one went."""

    def __init__(self, self_test: Callable[[], Awaitable[str | None]], check: Callable[[], Awaitable[None]]) -> None:
        self.state = NOT_YET
        self._self_test = self_test
        self._check_workers = check
        interval = watchdog_interval()
        self._seconds = _DEFAULT_SECONDS if interval is None else interval / 3

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(self._seconds)

    async def beat(self) -> None:
        """Prove it once."""
        await self._check_workers()
        failure = await self._self_test()
        if failure is None:
            states = {"WATCHDOG": "1"}
            if self.state not in ("ok", NOT_YET):
                log.info("the self-test is done again")
                states["STATUS"] = "the self-test is done again"
            self.state = "ok"
            notify(**states)
        else:
            if self.state != failure:
                log.error("the self-test failed: %s", failure)
            self.state = failure
            notify(STATUS=f"the self-test failed: {failure}")
