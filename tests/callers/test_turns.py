"""Coroutines of callers take turns, so that one caller's many do not delay another's one."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from handshaked.callers.account import Account, Limits
from handshaked.callers.turns import Turns
from tests.patience import soon


class Scene:
    """Coroutines whose segments take a second each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.turns = Turns(lambda: self.now)

    def account(self) -> Account:
        return Account(Limits(), self.now)

    def start(self, account: Account, name: str, segments: int = 1) -> asyncio.Task[str]:
        async def run() -> str:
            return await self.turns.run(account, self._work(name, segments))

        return asyncio.create_task(run())

    async def _work(self, name: str, segments: int) -> str:
        for _ in range(segments):
            self.order.append(name)
            self.now += 1.0
            await asyncio.sleep(0)
        return name


def play(scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(soon(scenario(Scene())))


def test_one_caller_does_not_wait_for_the_many_of_another() -> None:
    async def scenario(scene: Scene) -> None:
        busy, other = scene.account(), scene.account()
        tasks = [scene.start(busy, "busy") for _ in range(20)]
        await asyncio.sleep(0)
        assert await scene.start(other, "other") == "other"
        assert scene.order.index("other") <= 2
        assert await asyncio.gather(*tasks) == ["busy"] * 20
        assert busy.time_served == pytest.approx(20.0)

    play(scenario)


def test_long_coroutine_is_interrupted_where_it_awaits() -> None:
    async def scenario(scene: Scene) -> None:
        long, short = scene.start(scene.account(), "long", 10), scene.start(scene.account(), "short")
        await short
        assert scene.order[: scene.order.index("short")].count("long") <= 2
        await long
        assert scene.order.count("long") == 10

    play(scenario)


def test_event_loop_runs_between_segments() -> None:
    async def scenario(scene: Scene) -> None:
        passes: list[int] = []

        async def watch() -> None:
            while len(scene.order) < 10:
                passes.append(len(scene.order))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(scene.start(scene.account(), "one") for _ in range(10)), watching)
        assert {*range(1, 10)} <= {*passes}

    play(scenario)


def test_errors_and_cancellation_reach_the_coroutine_and_release_its_turn() -> None:
    async def scenario(scene: Scene) -> None:
        ended: list[str] = []

        async def fail() -> None:
            scene.now += 1.0
            raise ZeroDivisionError

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("canceled")
                raise

        async def run(work: Coroutine[Any, Any, None]) -> None:
            await scene.turns.run(scene.account(), work)

        waiting = asyncio.create_task(run(wait()))
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            await run(fail())
        first, waits_for_turn = scene.start(scene.account(), "first"), scene.start(scene.account(), "never")
        await asyncio.sleep(0)
        for task in (waits_for_turn, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert ended == ["canceled"]
        assert "never" not in scene.order
        assert [await first, await scene.start(scene.account(), "next")] == ["first", "next"]

    play(scenario)
