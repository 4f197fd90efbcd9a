"""Background tasks: an error is logged as soon as it occurs."""

import asyncio

import pytest

from handshaked.system.tasks import Tasks


async def fail() -> None:
    raise KeyError("a fault")


async def run(tasks: Tasks) -> None:
    await asyncio.wait([tasks.start(fail()), tasks.start(asyncio.sleep(0))])
    waiting = tasks.start(asyncio.Event().wait())
    assert len(tasks) == 1
    await tasks.end()
    assert waiting.cancelled()


def test_error_in_a_task_is_logged_immediately(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("the tests")
    asyncio.run(run(tasks))
    assert len(tasks) == 0
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a task of the tests ended unexpectedly")
    assert record.exc_info is not None
