"""Callers have their turns, whatever each of them asks for."""

from collections.abc import Callable, Iterator

import pytest

from handshaked.callers.account import Account, Limits
from handshaked.callers.fair_queue import Turns

TURN = 2.0


class Scene:
    """An event loop whose time goes by with the work that is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.ends: list[tuple[str, bool]] = []
        self.soon: list[Callable[[], None]] = []
        self.turns = Turns(self.soon.append, lambda: self.now, TURN)

    def account(self) -> Account:
        return Account(Limits(), self.now)

    def take(self, account: Account, name: str, *seconds: float) -> None:
        """Ask for a packet of messages, each of which takes so many seconds."""
        self.turns.take(account, self._steps(name, seconds), lambda finished: self.ends.append((name, finished)))

    def _steps(self, name: str, seconds: tuple[float, ...]) -> Iterator[int]:
        for one in seconds:
            self.done.append(name)
            if one < 0:
                raise ZeroDivisionError
            self.now += one
            yield 1

    def turn(self) -> list[str]:
        """What is done in the next round of the event loop."""
        self.done.clear()
        soon, self.soon[:] = list(self.soon), []
        for call in soon:
            call()
        return list(self.done)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_little_is_done_at_once(scene: Scene) -> None:
    scene.take(scene.account(), "one", 0.5, 0.5)
    scene.take(scene.account(), "other", 0.5)
    assert scene.done == ["one", "one", "other"]
    assert scene.ends == [("one", True), ("other", True)]
    assert scene.soon == []


def test_who_asks_for_little_does_not_wait_for_who_floods(scene: Scene) -> None:
    flooding = scene.account()
    for number in range(128):
        scene.take(flooding, f"flood {number}", *[1.0] * 1000)
    assert scene.now == TURN  # the others have not begun: their callbacks are of the same round
    scene.take(scene.account(), "victim", 1.0)
    assert scene.turn()[0] == "victim"
    assert ("victim", True) in scene.ends


def test_a_packet_is_interrupted_and_gone_on_with(scene: Scene) -> None:
    scene.take(scene.account(), "long", *[1.0] * 5)
    assert scene.ends == [("long", False)]
    assert [scene.turn(), scene.turn()] == [["long"] * 2, ["long"]]
    assert scene.ends == [("long", False), ("long", False), ("long", True)]


def test_the_connections_of_a_caller_take_turns(scene: Scene) -> None:
    account = scene.account()
    for name in "abc":
        scene.take(account, name, *[1.0] * 5)
    assert [scene.turn()[0] for _ in range(4)] == ["a", "b", "c", "a"]


def test_callers_get_the_same_time_however_many_connections_they_have(scene: Scene) -> None:
    many, few = scene.account(), scene.account()
    for _ in range(20):
        scene.take(many, "many", *[0.5] * 100)
    scene.take(few, "few", *[0.5] * 100)
    done = [name for _ in range(20) for name in scene.turn()]
    assert abs(done.count("many") - done.count("few")) <= 2 * TURN / 0.5


def test_a_message_that_takes_long_is_paid_for(scene: Scene) -> None:
    slow, quick = scene.account(), scene.account()
    scene.take(slow, "slow", 50.0, 50.0)
    scene.take(quick, "quick", *[1.0] * 100)
    done = [name for _ in range(26) for name in scene.turn()]
    assert done.index("slow") == pytest.approx(50, abs=2 * TURN)


def test_who_was_served_for_long_alone_does_not_wait_for_a_newcomer(scene: Scene) -> None:
    old = scene.account()
    for _ in range(1000):
        scene.take(old, "old", 1.0)
        scene.turn()
    scene.take(scene.account(), "new", *[1.0] * 1000)
    scene.take(old, "old", 1.0)
    assert "old" in scene.turn() + scene.turn()


def test_a_fault_in_one_callers_work_leaves_the_others_their_turns(scene: Scene) -> None:
    scene.take(scene.account(), "long", *[1.0] * 3)
    scene.take(scene.account(), "faulty", -1)
    scene.take(scene.account(), "good", 1.0)
    with pytest.raises(ZeroDivisionError):
        scene.turn()
    assert scene.ends[-1] == ("faulty", True)
    assert scene.turn() == ["good", "long"]


def test_time_is_charged_to_the_account(scene: Scene) -> None:
    account = Account(Limits(seconds_per_second=0.25), scene.now)
    scene.take(account, "busy", 1.0)
    assert account.debt(scene.now) == pytest.approx((1.0 - 0.25) / 0.25)
