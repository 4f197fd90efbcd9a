"""Calls wait until the bus has told who their sender is; one sender's calls never cost those of another."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from handshaked.control.bus import senders
from handshaked.control.bus.connection import BusError
from handshaked.control.bus.messages import Flag, Kind, Received
from handshaked.control.bus.senders import MAX_WAITING_BYTES, MAX_WAITING_CALLS, Sender, Senders
from handshaked.errors import HandshakedError
from handshaked.model import Caller
from tests.patience import soon, until


class Scene:
    """Senders whose users are identified once ``known`` is set."""

    def __init__(self, identify: Callable[[str], Awaitable[Caller]] | None = None) -> None:
        self.known = asyncio.Event()
        self.accepted: list[tuple[str, int, int]] = []
        self.refused: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.last: Sender | None = None
        self._settled = asyncio.Event()
        self.senders = Senders(identify or self.identify, self.accept, self.refuse)

    async def identify(self, name: str) -> Caller:
        self.asked.append(name)
        await until(self.known)
        return Caller(int(name[1:]))

    def accept(self, call: Received, sender: Sender, caller: Caller) -> None:
        self.last = sender
        self.accepted.append((sender.name, call.serial, caller.uid))
        self._settled.set()

    def refuse(self, call: Received, error: HandshakedError) -> None:
        self.refused.append((call.sender, call.serial))
        self._settled.set()

    async def settle(self) -> None:
        self._settled.clear()
        await soon(self._settled.wait())


def call(name: str, serial: int, size: int = 0) -> Received:
    return Received(Kind.METHOD_CALL, Flag.NONE, serial, "<", bytes(size), sender=name)


def test_calls_wait_for_one_lookup_and_keep_their_order() -> None:
    async def scenario() -> None:
        scene = Scene()
        for serial in range(3):
            scene.senders.receive(call(":5", serial))
        scene.known.set()
        await scene.settle()
        scene.senders.receive(call(":5", 3))
        assert scene.accepted == [(":5", serial, 5) for serial in range(4)]
        assert scene.asked == [":5"]

    asyncio.run(scenario())


def test_one_name_cannot_refuse_the_calls_of_another() -> None:
    """Root's call is not refused, although nobody knows yet that it is root's."""

    async def scenario() -> None:
        scene = Scene()
        for name in range(1, 500):
            for serial in range(MAX_WAITING_CALLS + 1):
                scene.senders.receive(call(f":{name}", serial))
        scene.senders.receive(call(":0", 1))
        assert scene.refused == [(f":{name}", MAX_WAITING_CALLS) for name in range(1, 500)]
        scene.known.set()
        while (":0", 1, 0) not in scene.accepted:
            await scene.settle()

    asyncio.run(scenario())


def test_the_name_with_the_most_bytes_is_refused_when_memory_is_short() -> None:
    async def scenario() -> None:
        scene = Scene()
        scene.senders.receive(call(":0", 1, 1000))
        for serial in range(8):
            scene.senders.receive(call(":7", serial, MAX_WAITING_BYTES // 8))
            scene.senders.receive(call(":8", serial, MAX_WAITING_BYTES // 32))
        assert {name for name, _ in scene.refused} == {":7"}
        scene.known.set()
        await scene.settle()
        assert (":0", 1, 0) in scene.accepted

    asyncio.run(scenario())


def test_calls_of_a_name_that_nobody_owns_are_refused() -> None:
    async def identify(name: str) -> Caller:
        raise BusError("no such name")

    async def scenario() -> None:
        scene = Scene(identify)
        scene.senders.receive(call(":5", 1))
        await scene.settle()
        assert scene.refused == [(":5", 1)]
        assert not scene.accepted

    asyncio.run(scenario())


def test_sender_that_leaves_the_bus_is_gone_even_before_its_calls_are_served() -> None:
    async def scenario() -> None:
        scene = Scene()
        scene.senders.receive(call(":5", 1))
        scene.senders.remove(":5")
        scene.known.set()
        await scene.settle()
        assert scene.last.gone

    asyncio.run(scenario())


def test_number_of_known_names_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "MAX_SENDERS", 3)

    async def scenario() -> None:
        scene = Scene()
        scene.known.set()
        for name in (1, 2, 3, 4):
            scene.senders.receive(call(f":{name}", 1))
            await scene.settle()
        scene.senders.receive(call(":4", 2))
        assert len(scene.accepted) == 5
        scene.senders.receive(call(":1", 2))
        await scene.settle()
        assert scene.asked == [":1", ":2", ":3", ":4", ":1"]

    asyncio.run(scenario())
