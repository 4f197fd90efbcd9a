"""Background tasks: an error is logged as soon as it occurs."""

import asyncio

import pytest

from handshaked.system.tasks import Tasks
from tests.patience import soon


async def fail() -> None:
    raise KeyError("a fault")


async def fail_twice(tasks: Tasks) -> list[int]:
    """Return how often the work was started."""
    started: list[int] = []

    async def work() -> None:
        started.append(len(started))
        if len(started) < 3:
            raise KeyError("a fault")

    await soon(tasks.keep(work))
    return started


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


def test_kept_task_is_started_again_and_said(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(fail_twice(Tasks("the tests", pause=0.0))) == [0, 1, 2]
    assert caplog.messages == ["a task of the tests ended unexpectedly, it is started again in 0 s"] * 2
