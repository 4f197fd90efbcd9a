"""The parent's channel to a worker: every answer goes to the command that it answers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from handshaked.wire.json_packets import Message, receive_message, send_message
from handshaked.workers.worker_channel import WorkerChannel
from tests.descriptors import none_left_open
from tests.patience import PATIENCE, soon


def status(queue: int) -> Message:
    """Return a status with that many bytes in the queue."""
    return {"event": "status", "in_flight": 0, "queue": queue, "kernel": None}


class Scene:
    """A channel, the worker's end, and the events received."""

    def __init__(self, parent: socket.socket, worker: socket.socket) -> None:
        self.worker = worker
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.violations: asyncio.Queue[str] = asyncio.Queue()
        self.channel = WorkerChannel(parent, self.events.put_nowait, self.violations.put_nowait)

    async def receive(self) -> Message:
        """Receive the next command as the worker."""
        while True:
            try:
                received = receive_message(self.worker)
            except BlockingIOError:
                await asyncio.sleep(0)
            else:
                assert received is not None
                return received[0]

    def answer(self, command: Message, queue: int) -> None:
        """Answer `command`."""
        send_message(self.worker, {**status(queue), "number": command["number"]})


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        parent, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker.setblocking(False)
        with parent, worker:
            await scenario(Scene(parent, worker))

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_answers_in_another_order_reach_their_commands() -> None:
    async def scenario(scene: Scene) -> None:
        asked = [asyncio.create_task(scene.channel.ask("status", PATIENCE)) for _ in range(2)]
        first, second = await scene.receive(), await scene.receive()
        scene.answer(second, 2)
        scene.answer(first, 1)
        answers = await soon(asyncio.gather(*asked))
        assert answers == [status(1), status(2)]

    play(scenario)


def test_late_answer_is_not_taken_for_that_to_a_later_command() -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.channel.ask("status", 0.01) is None
        late = await scene.receive()
        asked = asyncio.create_task(scene.channel.ask("status", PATIENCE))
        current = await scene.receive()
        scene.answer(late, 1)
        assert await soon(scene.events.get()) == status(1)
        assert not asked.done()
        scene.answer(current, 2)
        assert await soon(asked) == status(2)

    play(scenario)


def test_end_of_the_channel_ends_questions() -> None:
    async def scenario(scene: Scene) -> None:
        asked = asyncio.create_task(scene.channel.ask("status", PATIENCE))
        await scene.receive()
        scene.channel.close()
        assert await soon(asked) is None

    play(scenario)


@pytest.mark.parametrize(
    "packet",
    [b"\xff", b"[]", b"{}", b'{"event": []}', b'{"event": "refreshed", "generation": 1, "number": []}', b" " * 200_000],
)
def test_nothing_is_received_after_a_malformed_message(packet: bytes) -> None:
    async def scenario(scene: Scene) -> None:
        scene.worker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(packet))
        scene.worker.send(packet)
        send_message(scene.worker, status(1))
        assert await soon(scene.violations.get())
        assert await scene.channel.ask("status", 0.01) is None
        assert scene.events.empty()
        assert scene.violations.empty()
        scene.channel.close()

    play(scenario)


def test_message_with_descriptors_is_malformed_and_they_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.workers.worker_channel.refuse_descriptors", lambda _: False)  # before Linux 6.16

    async def scenario(scene: Scene) -> None:
        with none_left_open():
            send_message(scene.worker, status(1), (0, 0))
            assert await soon(scene.violations.get()) == "it has file descriptors"
        scene.channel.close()

    play(scenario)
