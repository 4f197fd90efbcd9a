"""How much callers may have the log say."""

import asyncio
import logging

import pytest

from handshaked.callers.log_limit import LogLimit
from handshaked.model import KERNEL, Caller
from tests.patience import soon


def test_one_caller_fills_no_log_and_takes_nothing_from_others(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        limit = LogLimit(lines=3)
        assert sum(limit.allows(Caller(12345, pid=pid)) for pid in range(4714)) == 3
        assert [limit.allows(caller) for caller in (Caller(0), KERNEL, Caller(54321))] == [True] * 3
        limit.tell()
        assert limit.allows(Caller(12345))

    asyncio.run(scenario())
    assert caplog.messages == ["... and 4711 more lines that uid 12345 caused were left out"]


def test_what_was_left_out_is_told_without_anybody_asking(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        told = asyncio.Event()
        logger = logging.getLogger("handshaked.callers.log_limit")

        def tells(_: logging.LogRecord) -> bool:
            told.set()
            return True

        logger.addFilter(tells)
        limit = LogLimit(lines=1, seconds=0.01)
        assert [limit.allows("the network") for _ in range(2)] == [True, False]
        await soon(told.wait())
        logger.removeFilter(tells)

    asyncio.run(scenario())
    assert caplog.messages == ["... and 1 more lines that the network caused were left out"]
