"""A worker's channel to its parent: order, and what happens while the parent does not read."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from handshaked.model import Caller, Outcome, Request, Role
from handshaked.reporting.counts import HandshakeCounts
from handshaked.system.memory_file import content_of
from handshaked.wire.json_packets import Message, receive_message, send_message
from handshaked.workers.parent_channel import ParentChannel
from tests.patience import soon


class Scene:
    """A channel, the parent's end, and the callbacks that were called."""

    def __init__(self, worker: socket.socket, parent: socket.socket) -> None:
        self.worker = worker
        self.parent = parent
        self.commands: asyncio.Queue[str] = asyncio.Queue()
        self.files: list[bytes | None] = []
        self.ended = asyncio.Event()
        self.channel = ParentChannel(worker, self._receive_command, self.ended.set)

    def _receive_command(self, command: str, file: int | None) -> Message | None:
        self.commands.put_nowait(command)
        self.files.append(None if file is None else content_of(file))
        return {"event": "status"} if command == "status" else None

    async def receive(self) -> Message:
        """Receive the next message as the parent."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.parent, readable.set)
        await soon(readable.wait())
        loop.remove_reader(self.parent)
        received = receive_message(self.parent)
        assert received is not None
        return received[0]


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        worker, parent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with worker, parent:
            await scenario(Scene(worker, parent))

    asyncio.run(run())


def batch(count: int) -> dict[str, Any]:
    """Return a batch of `count` outcomes."""
    counts = HandshakeCounts()
    for _ in range(count):
        counts.add(Request(Role.SERVER, Caller(1), timeout=8), Outcome(status=0), 0.01)
    return {"records": [{"outcome": "ok"}] * count, "left_out": 0, "counts": counts.take(256)}


def fill(sock: socket.socket) -> int:
    """Send numbered messages on `sock` until its buffer is full; return their number."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            send_message(sock, {"number": sent})
            sent += 1
    return sent


def test_commands_are_received_in_order() -> None:
    async def scenario(scene: Scene) -> None:
        for command in ("refresh", "status"):
            send_message(scene.parent, {"command": command})
        assert [await soon(scene.commands.get()) for _ in range(2)] == ["refresh", "status"]

    play(scenario)


def test_answer_repeats_the_number_of_its_command() -> None:
    async def scenario(scene: Scene) -> None:
        for number in (5, 3):
            send_message(scene.parent, {"command": "status", "number": number})
        answers = [await scene.receive() for _ in range(2)]
        assert answers == [{"event": "status", "number": 5}, {"event": "status", "number": 3}]

    play(scenario)


def test_end_of_the_parent_is_reported() -> None:
    async def scenario(scene: Scene) -> None:
        scene.parent.shutdown(socket.SHUT_RDWR)
        await soon(scene.ended.wait())

    play(scenario)


def test_batch_is_sent_as_counts_and_records() -> None:
    async def scenario(scene: Scene) -> None:
        scene.channel.report(batch(20))
        first, second, third = [await scene.receive() for _ in range(3)]
        assert (first["left_out"], first["records"]) == (0, [])
        assert [len(message["records"]) for message in (second, third)] == [16, 4]

    play(scenario)


def test_counts_are_complete_and_records_dropped_while_the_parent_does_not_read() -> None:
    async def scenario(scene: Scene) -> None:
        sent = fill(scene.worker)
        scene.channel.send({"event": "status"})
        for _ in range(3):
            scene.channel.report(batch(5))
        assert [(await scene.receive())["number"] for _ in range(sent)] == list(range(sent))
        assert await scene.receive() == {"event": "status"}
        message = await scene.receive()
        counts = HandshakeCounts()
        counts.merge(message["counts"])
        assert (counts.succeeded, message["left_out"], message["records"]) == (15, 15, [])

    play(scenario)
