"""Tasks beside others: one that fails is heard of at once."""

import asyncio

import pytest

from handshaked.system.tasks import Tasks


async def fail() -> None:
    raise KeyError("a fault")


async def run(tasks: Tasks) -> None:
    await asyncio.wait([tasks.keep(fail()), tasks.keep(asyncio.sleep(0))])
    waiting = tasks.keep(asyncio.Event().wait())
    assert len(tasks) == 1
    await tasks.end()
    assert waiting.cancelled()


def test_a_task_that_failed_was_heard_of_when_it_was_collected(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("the tests")
    asyncio.run(run(tasks))
    assert len(tasks) == 0
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a task of the tests ended unexpectedly")
    assert record.exc_info is not None
