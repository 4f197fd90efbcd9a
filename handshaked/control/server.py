"""The control socket: read commands, identify the caller, and forward them. Authorization happens elsewhere.

A connection that subscribes receives ``{"events": [..]}`` messages until it closes. Events that it is too slow for are
dropped, and counted as ``lost`` in the next message.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.account import Account, Accounts, Limits
from handshaked.callers.closing import Closer
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.turns import Turns
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import HandshakedError, RefusedError, shortened
from handshaked.model import Caller
from handshaked.system.readiness import is_readable, readable
from handshaked.system.tasks import Tasks
from handshaked.wire.attached import MAX_ATTACHED
from handshaked.wire.json_packets import MAX_MESSAGE, Message, Packet, next_length, receive_packet, send_message

log = logging.getLogger(__name__)

Handler = Callable[[str, Caller, Arguments, tuple[int, ...]], Awaitable[Message]]
Subscriber = Callable[[Caller, Arguments, Callable[[list[Message]], None]], Callable[[], None]]
_BOUNDS = ConnectionBounds(total=704, per_user=64, reserve=128)
_LIMITS = Limits(seconds_per_second=0.25)
_IDLE_SECONDS = 60.0
_MAX_STRANGER_MESSAGE = 16 * 1024
_TOO_LONG = f"the message has {{}} bytes, more than {_MAX_STRANGER_MESSAGE}: uid {{}} has no grant to register"
_CONNECTION_SECONDS = 0.0005
"""Time charged to the user of a new connection, whatever the connection is used for."""
_EVENTS_PER_MESSAGE = 16


class ControlServer:
    """Answer commands received on `listener` with the results of `handle`.

    Callers take turns. Those who may not register anything, says `may_register`, send short messages only, so that
    nothing longer is parsed.
    `subscribe` starts delivering events to a callback, and returns a function that unsubscribes. `privileged` are uids
    that connections are reserved for, besides root's.
    """

    def __init__(
        self,
        listener: socket.socket,
        handle: Handler,
        subscribe: Subscriber,
        may_register: Callable[[Caller], bool],
        closer: Closer,
        privileged: Iterable[int] = (),
    ) -> None:
        self._handle = handle
        self._subscribe = subscribe
        self._may_register = may_register
        self._closer = closer
        self._accounts = Accounts(_LIMITS, closer.pool)
        self._turns = Turns()
        self._tasks = Tasks("the control socket")
        self._log_limit = LogLimit()
        self._acceptor = Acceptor(
            listener, "the control socket", _BOUNDS, self._log_limit, closer, self._take, privileged
        )
        self._acceptor.start()

    async def close(self) -> None:
        """Accept no more commands, and cancel those in progress."""
        self._acceptor.stop()
        await self._tasks.end()

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        account = self._accounts.open(caller)
        account.charge(1, 0, _CONNECTION_SECONDS, asyncio.get_running_loop().time())
        task = self._tasks.start(self._serve(sock, caller, account))
        released = partial(self._released, caller)
        task.add_done_callback(lambda _: self._closer.close_socket(caller.account, sock, released))

    def _released(self, caller: Caller) -> None:
        self._accounts.close(caller)
        self._acceptor.release(caller)

    async def _serve(self, sock: socket.socket, caller: Caller, account: Account) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if (debt := account.debt(loop.time())) > 0:
                await asyncio.sleep(debt)
            if not (is_readable(sock) or await _readable(sock, _IDLE_SECONDS)):
                return
            await _room_for_descriptors(account)
            if not await self._turns.run(account, self._serve_next(sock, caller, account)):
                return

    async def _serve_next(self, sock: socket.socket, caller: Caller, account: Account) -> bool:
        """Answer the next packet, whose descriptors have room; return whether the connection stays open."""
        try:
            length = next_length(sock)
            permitted = length <= _MAX_STRANGER_MESSAGE or self._may_register(caller)
            packet = receive_packet(sock, MAX_MESSAGE if permitted else _MAX_STRANGER_MESSAGE)
        except (OSError, HandshakedError) as error:  # HandshakedError: the grants cannot be read
            account.release_descriptors(MAX_ATTACHED)
            _send(sock, {"error": str(error)})
            return False
        account.release_descriptors(MAX_ATTACHED - len(packet.descriptors))
        try:
            if permitted:
                stays_open = await self._serve_packet(sock, caller, packet)
            else:
                stays_open = _send(sock, {"error": _TOO_LONG.format(length, caller.uid)})
        finally:
            closed = self._closer.close(caller.account, packet.descriptors)
        await closed  # until then, connection and descriptors count against its user's limits
        account.release_descriptors(len(packet.descriptors))
        return stays_open

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
        answer = {"error": "internal error: see the daemon's log"}
        try:
            answer = await self._answer_to(caller, message, packet.descriptors)
        except asyncio.CancelledError:
            answer = {"error": "the daemon is stopping"}
            raise
        finally:
            stays_open = _answer(sock, answer)
        return stays_open

    async def _answer_to(self, caller: Caller, message: Message, descriptors: tuple[int, ...]) -> Message:
        try:
            command = message.pop("command", None)
            if not isinstance(command, str):
                raise RefusedError("the message has no command")
            return {"result": await self._handle(command, caller, Arguments(message), descriptors)}
        except HandshakedError as error:
            return {"error": str(error)}
        except OSError as error:
            if self._log_limit.allows(caller):
                log.error("a control command failed: %s", error)
            return {"error": shortened(f"the command failed: {error}")}

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


async def _room_for_descriptors(account: Account) -> None:
    """Take room for the descriptors of one packet, once there is enough."""
    room = asyncio.Event()
    while not account.take_descriptors(MAX_ATTACHED, room.set):
        await room.wait()
        room.clear()


async def _readable(sock: socket.socket, seconds: float | None) -> bool:
    """Return whether `sock` becomes readable, or is closed by its peer, within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await readable(sock, "the control socket")
    except TimeoutError:
        return False
    return True


def _answer(sock: socket.socket, answer: Message) -> bool:
    """Send `answer`, or the reason why it cannot be sent; return False if nothing can be sent."""
    try:
        send_message(sock, answer)
    except RefusedError as error:
        return _send(sock, {"error": f"the answer cannot be sent: {error}"})
    except OSError as error:
        log.debug("an answer could not be sent: %s", error)
        return False
    return True


def _send(sock: socket.socket, message: Message) -> bool:
    try:
        send_message(sock, message)
    except BlockingIOError:
        return False
    except (OSError, RefusedError) as error:
        log.debug("a control message could not be sent: %s", error)
        return False
    return True
