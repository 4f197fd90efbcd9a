"""The fair queue: callers share the time, no matter how much work each of them causes."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from handshaked.callers.account import Account, Limits
from handshaked.callers.fair_queue import FairQueue
from tests.patience import soon

TURN = 2.0


class Scene:
    """An event loop whose clock advances with the work that is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.ends: list[tuple[str, bool]] = []
        self.soon: list[Callable[[], None]] = []
        self.queue = FairQueue(self.soon.append, lambda: self.now, TURN)

    def account(self) -> Account:
        return Account(Limits(), self.now)

    def run(self, account: Account, name: str, *seconds: float) -> None:
        """Run a packet of messages, each of which takes the given seconds."""
        self.queue.run(account, self._steps(name, seconds), lambda finished: self.ends.append((name, finished)))

    def _steps(self, name: str, seconds: tuple[float, ...]) -> Iterator[int]:
        for one in seconds:
            self.done.append(name)
            if one < 0:
                raise ZeroDivisionError
            self.now += one
            yield 1

    def turn(self) -> list[str]:
        """Run the event loop once; return what was done."""
        self.done.clear()
        soon, self.soon[:] = list(self.soon), []
        for call in soon:
            call()
        return list(self.done)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_little_work_runs_immediately(scene: Scene) -> None:
    scene.run(scene.account(), "one", 0.5, 0.5)
    scene.run(scene.account(), "other", 0.5)
    assert scene.done == ["one", "one", "other"]
    assert scene.ends == [("one", True), ("other", True)]
    assert scene.soon == []


def test_caller_with_little_work_does_not_wait_for_a_flood(scene: Scene) -> None:
    flooding = scene.account()
    for number in range(128):
        scene.run(flooding, f"flood {number}", *[1.0] * 1000)
    assert scene.now == TURN  # nothing else has run: the callbacks are of the same iteration
    scene.run(scene.account(), "victim", 1.0)
    assert scene.turn()[0] == "victim"
    assert ("victim", True) in scene.ends


def test_long_packet_is_interrupted_and_continued(scene: Scene) -> None:
    scene.run(scene.account(), "long", *[1.0] * 5)
    assert scene.ends == [("long", False)]
    assert [scene.turn(), scene.turn()] == [["long"] * 2, ["long"]]
    assert scene.ends == [("long", False), ("long", False), ("long", True)]


def test_connections_of_a_caller_alternate(scene: Scene) -> None:
    account = scene.account()
    for name in "abc":
        scene.run(account, name, *[1.0] * 5)
    assert [scene.turn()[0] for _ in range(4)] == ["a", "b", "c", "a"]


def test_callers_get_equal_time_regardless_of_their_connections(scene: Scene) -> None:
    many, few = scene.account(), scene.account()
    for _ in range(20):
        scene.run(many, "many", *[0.5] * 100)
    scene.run(few, "few", *[0.5] * 100)
    done = [name for _ in range(20) for name in scene.turn()]
    assert abs(done.count("many") - done.count("few")) <= 2 * TURN / 0.5


def test_long_message_delays_the_next_turn_of_its_caller(scene: Scene) -> None:
    slow, quick = scene.account(), scene.account()
    scene.run(slow, "slow", 50.0, 50.0)
    scene.run(quick, "quick", *[1.0] * 100)
    done = [name for _ in range(26) for name in scene.turn()]
    assert done.index("slow") == pytest.approx(50, abs=2 * TURN)


def test_caller_served_alone_for_long_does_not_wait_for_a_new_one(scene: Scene) -> None:
    old = scene.account()
    for _ in range(1000):
        scene.run(old, "old", 1.0)
        scene.turn()
    scene.run(scene.account(), "new", *[1.0] * 1000)
    scene.run(old, "old", 1.0)
    assert "old" in scene.turn() + scene.turn()


def test_error_in_one_callers_work_does_not_stop_others(scene: Scene) -> None:
    scene.run(scene.account(), "long", *[1.0] * 3)
    scene.run(scene.account(), "faulty", -1)
    scene.run(scene.account(), "good", 1.0)
    with pytest.raises(ZeroDivisionError):
        scene.turn()
    assert scene.ends[-1] == ("faulty", True)
    assert scene.turn() == ["good", "long"]


def test_time_is_charged_to_the_account(scene: Scene) -> None:
    account = Account(Limits(seconds_per_second=0.25), scene.now)
    scene.run(account, "busy", 1.0)
    assert account.debt(scene.now) == pytest.approx((1.0 - 0.25) / 0.25)


def test_what_was_sent_during_a_turn_is_served_in_the_next_one() -> None:
    """The event loop polls before it continues with a caller that has work for many turns."""
    done: list[str] = []
    clock, ended = count(), asyncio.Event()

    def after(finished: bool) -> None:
        if finished:
            ended.set()

    def flood() -> Iterator[int]:
        while "honest" not in done:
            done.append("flood")
            yield 1

    def honest() -> Iterator[int]:
        done.append("honest")
        yield 1

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queue = FairQueue(clock=lambda: next(clock), seconds=1.0)
        ours, theirs = socket.socketpair()
        with ours, theirs:

            def read() -> None:
                loop.remove_reader(ours)
                queue.run(Account(Limits(), 0.0), honest(), lambda _: None)

            loop.add_reader(ours, read)
            queue.run(Account(Limits(), 0.0), flood(), after)
            theirs.send(b"x")
            await soon(ended.wait())

    asyncio.run(scenario())
    assert done == ["flood", "honest"]
