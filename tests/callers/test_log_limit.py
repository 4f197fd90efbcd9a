"""The limit on log lines that each caller can cause."""

import asyncio
import logging

import pytest

from handshaked.callers.log_limit import LogLimit
from handshaked.model import KERNEL, Caller
from tests.patience import soon


def test_limit_applies_to_each_caller_separately(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        limit = LogLimit(lines=3)
        assert sum(limit.allows(Caller(12345, pid=pid)) for pid in range(4714)) == 3
        assert [limit.allows(caller) for caller in (Caller(0), KERNEL, Caller(54321))] == [True] * 3
        limit.report_dropped()
        assert limit.allows(Caller(12345))

    asyncio.run(scenario())
    assert caplog.messages == ["... and 4711 more lines caused by uid 12345 were dropped"]


def test_dropped_lines_are_reported_after_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        reported = asyncio.Event()
        logger = logging.getLogger("handshaked.callers.log_limit")

        def note(_: logging.LogRecord) -> bool:
            reported.set()
            return True

        logger.addFilter(note)
        limit = LogLimit(lines=1, seconds=0.01)
        assert [limit.allows("the network") for _ in range(2)] == [True, False]
        await soon(reported.wait())
        logger.removeFilter(note)

    asyncio.run(scenario())
    assert caplog.messages == ["... and 1 more lines caused by the network were dropped"]
