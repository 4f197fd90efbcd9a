"""The parent's end of the socket pair to a worker: it sends commands, and receives answers and events."""

import asyncio
import socket
from collections.abc import Callable
from itertools import count

from handshaked.callers.closing import close_without_linger
from handshaked.errors import RefusedError, is_temporary
from handshaked.system.readiness import Readiness
from handshaked.wire.attached import refuse_descriptors
from handshaked.wire.json_packets import Message, Packet, receive_packet, send_message
from handshaked.workers.worker_messages import check_message

ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 0.1


class WorkerChannel:
    """Calls `on_event` with each message received on `sock`, answers included, and sends commands.

    Each command has a number that its answer repeats, so that a late answer is not taken for that to another command.
    After a malformed message, `on_violation` is called with the reason, and nothing more is received.
    """

    def __init__(
        self, sock: socket.socket, on_event: Callable[[Message], None], on_violation: Callable[[str], object]
    ) -> None:
        self._sock = sock
        self._on_event = on_event
        self._on_violation = on_violation
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        refuse_descriptors(sock)
        self._reading = Readiness(sock, "a worker", self._read)
        self._reading.start()

    async def ask(self, command: str, seconds: float = ANSWER_SECONDS) -> Message | None:
        """Return the answer to `command`; None if the worker does not answer in time or has ended."""
        answer: asyncio.Future[Message] = self._loop.create_future()
        number = next(self._numbers)
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(seconds):
                await self._send({"command": command, "number": number})
                await asyncio.wait([answer])
        except (OSError, TimeoutError):
            return None
        finally:
            self._waiting.pop(number, None)
        return None if answer.cancelled() else answer.result()

    async def _send(self, message: Message) -> None:
        """Send `message` as soon as the kernel has memory for it, and the worker has read earlier ones."""
        while True:
            try:
                send_message(self._sock, message)
            except OSError as error:
                if not is_temporary(error):
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    def send(self, command: str, descriptors: tuple[int, ...] = ()) -> None:
        """Send `command`, which has no answer, with `descriptors`. OSError if that is not possible now."""
        send_message(self._sock, {"command": command}, descriptors)

    def close(self) -> None:
        """Close the channel; outstanding answers are cancelled."""
        self._reading.stop()
        if self._retry is not None:
            self._retry.cancel()
        self._sock.close()
        for answer in self._waiting.values():
            answer.cancel()

    def _read(self) -> None:
        try:
            packet = receive_packet(self._sock)
        except OSError as error:
            self._reading.stop()
            if is_temporary(error):
                # While the kernel is short of memory, the event loop would spin.
                self._retry = self._loop.call_later(_PAUSE_SECONDS, self._reading.start)
            return
        try:
            message = _checked(packet)
        except RefusedError as error:
            self._reading.stop()
            self._on_violation(str(error))
            return
        if message is None:
            self._reading.stop()
            return
        answer = self._waiting.get(message.pop("number", 0))
        self._on_event(message)
        if answer is not None and not answer.done():
            answer.set_result(message)


def _checked(packet: Packet) -> Message | None:
    """Return the message in `packet`; None if the worker has ended. RefusedError if no worker sends such a packet."""
    close_without_linger(packet.descriptors)
    if packet.descriptors:
        raise RefusedError("it has file descriptors")
    message = packet.message()
    if message is not None:
        check_message(message)
    return message
