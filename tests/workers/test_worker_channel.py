"""The parent's channel to a worker: every answer goes to the command that it answers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from handshaked.wire.json_packets import Message, receive_message, send_message
from handshaked.workers.worker_channel import WorkerChannel
from tests.patience import PATIENCE, soon


class Scene:
    """A channel, the worker's end, and the events received."""

    def __init__(self, parent: socket.socket, worker: socket.socket) -> None:
        self.worker = worker
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.channel = WorkerChannel(parent, self.events.put_nowait)

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

    def answer(self, command: Message, text: str) -> None:
        """Answer `command`."""
        send_message(self.worker, {"event": "status", "text": text, "number": command["number"]})


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
        scene.answer(second, "second")
        scene.answer(first, "first")
        answers = await soon(asyncio.gather(*asked))
        assert [one and one["text"] for one in answers] == ["first", "second"]

    play(scenario)


def test_late_answer_is_not_taken_for_that_to_a_later_command() -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.channel.ask("status", 0.01) is None
        late = await scene.receive()
        asked = asyncio.create_task(scene.channel.ask("status", PATIENCE))
        current = await scene.receive()
        scene.answer(late, "late")
        assert (await soon(scene.events.get()))["text"] == "late"
        assert not asked.done()
        scene.answer(current, "current")
        assert await soon(asked) == {"event": "status", "text": "current"}

    play(scenario)


def test_end_of_the_channel_ends_questions() -> None:
    async def scenario(scene: Scene) -> None:
        asked = asyncio.create_task(scene.channel.ask("status", PATIENCE))
        await scene.receive()
        scene.channel.close()
        assert await soon(asked) is None

    play(scenario)
