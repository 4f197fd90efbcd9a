"""The control socket: read commands, identify the caller, and forward them. Authorization happens elsewhere.

A connection that subscribes receives ``{"events": [..]}`` messages until it closes. Events that it is too slow for are
dropped, and counted as ``lost`` in the next message.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.threads import close_in_thread
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import HandshakedError, RefusedError
from handshaked.model import Caller
from handshaked.system.tasks import Tasks
from handshaked.wire.json_packets import Message, Packet, receive_packet, send_message

log = logging.getLogger(__name__)

Handler = Callable[[str, Caller, Arguments, tuple[int, ...]], Awaitable[Message]]
Subscriber = Callable[[Caller, Arguments, Callable[[list[Message]], None]], Callable[[], None]]
_BOUNDS = ConnectionBounds(total=256, per_user=64, reserve=64)
_IDLE_SECONDS = 60.0
_EVENTS_PER_MESSAGE = 16


class ControlServer:
    """Answer commands received on `listener` with the results of `handle`.

    `subscribe` starts delivering events to a callback, and returns a function that unsubscribes.
    """

    def __init__(self, listener: socket.socket, handle: Handler, subscribe: Subscriber) -> None:
        self._handle = handle
        self._subscribe = subscribe
        self._tasks = Tasks("the control socket")
        self._acceptor = Acceptor(listener, "the control socket", _BOUNDS, LogLimit(), self._take)
        self._acceptor.start()

    async def close(self) -> None:
        """Accept no more commands, and cancel those in progress."""
        self._acceptor.stop()
        await self._tasks.end()

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        self._tasks.start(self._serve(sock, caller)).add_done_callback(lambda task: self._acceptor.release(caller))

    async def _serve(self, sock: socket.socket, caller: Caller) -> None:
        with sock:
            while await _readable(sock, _IDLE_SECONDS):
                try:
                    packet = receive_packet(sock)
                except OSError as error:
                    _send(sock, {"error": str(error)})
                    return
                try:
                    stays_open = await self._serve_packet(sock, caller, packet)
                finally:
                    closed = close_in_thread(packet.descriptors)
                await closed  # until then, the connection counts against its user's limit
                if not stays_open:
                    return

    async def _serve_packet(self, sock: socket.socket, caller: Caller, packet: Packet) -> bool:
        """Answer `packet`; return whether the connection stays open for another one."""
        try:
            message = packet.message()
        except RefusedError as error:
            _send(sock, {"error": str(error)})
            return False
        if message is None:
            return False
        if message.get("command") == "subscribe" and not packet.descriptors:
            await self._serve_events(sock, caller, message)
            return False
        _answer(sock, await self._answer_to(caller, message, packet.descriptors))
        return True

    async def _answer_to(self, caller: Caller, message: Message, descriptors: tuple[int, ...]) -> Message:
        try:
            command = message.pop("command", None)
            if not isinstance(command, str):
                raise RefusedError("the message has no command")
            return {"result": await self._handle(command, caller, Arguments(message), descriptors)}
        except HandshakedError as error:
            return {"error": str(error)}
        except OSError as error:
            log.error("a control command failed: %s", error)
            return {"error": f"the command failed: {error}"}

    async def _serve_events(self, sock: socket.socket, caller: Caller, message: Message) -> None:
        del message["command"]
        lost = 0

        def deliver(events: list[Message]) -> None:
            nonlocal lost
            for start in range(0, len(events), _EVENTS_PER_MESSAGE):
                part = events[start : start + _EVENTS_PER_MESSAGE]
                lost = 0 if _send(sock, {"events": part, "lost": lost}) else lost + len(part)

        try:
            end = self._subscribe(caller, Arguments(message), deliver)
        except RefusedError as error:
            _send(sock, {"error": str(error)})
            return
        try:
            _send(sock, {"result": {}})
            await _readable(sock, None)  # subscribers send nothing more: readable means closed
        finally:
            end()


async def _readable(sock: socket.socket, seconds: float | None) -> bool:
    """Return whether `sock` becomes readable, or is closed by its peer, within `seconds`."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(sock)
    return True


def _answer(sock: socket.socket, answer: Message) -> None:
    """Send `answer`, or the reason why it cannot be sent."""
    try:
        send_message(sock, answer)
    except RefusedError as error:
        _send(sock, {"error": f"the answer cannot be sent: {error}"})
    except OSError as error:
        log.debug("an answer could not be sent: %s", error)


def _send(sock: socket.socket, message: Message) -> bool:
    try:
        send_message(sock, message)
    except BlockingIOError:
        return False
    except (OSError, RefusedError) as error:
        log.debug("a control message could not be sent: %s", error)
        return False
    return True
