"""A connection to a message bus: authentication, calls with their replies, and the messages of others.

Not dbus-next's, which decodes everything that a stranger sends before anybody can say whose it is and how large it may
be; authentication, addresses and the encoding of values are. The bus itself is trusted: it forwards the bytes of
strangers and vouches for their sender.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from dbus_next._private.address import get_bus_address, parse_address
from dbus_next.auth import AuthExternal
from dbus_next.constants import BusType
from dbus_next.errors import AuthError, InvalidAddressError

from handshaked.callers.closing import Closer
from handshaked.control.bus.marshalling import MalformedError
from handshaked.control.bus.messages import Kind, Message, MessageStream, Received
from handshaked.errors import HandshakedError
from handshaked.system.readiness import Readiness
from handshaked.wire.attached import CONTROL_SPACE, pull_descriptors

_KNOWN = {"system": BusType.SYSTEM, "session": BusType.SESSION}
MAX_SENT = 16 * 1024 * 1024
"""Bytes. A bus disconnects the sender of a message that is longer than its limit, which is 32 MiB by default."""
_CONNECT_SECONDS = _CALL_SECONDS = 25.0
_MAX_LINE = 4096
_MAX_VALUES = 4096
_CHUNK = 16 * 1024  # of small messages, this is about two milliseconds' work
_SKIPPED_CHUNK = 256 * 1024
MAX_UNSENT = 8 * 1024 * 1024


class BusError(HandshakedError):
    """An error reply, or a connection that cannot be used."""


class Peer(NamedTuple):
    """An interface of an object on the bus."""

    name: str
    path: str
    interface: str


BUS = Peer("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class Connection:
    """Connect with ``open``. `on_message` receives all messages but replies, and must close their descriptors.

    While much is unsent because the bus does not read, nothing is received.
    """

    def __init__(self, sock: socket.socket, on_message: Callable[[Received], object], closer: Closer) -> None:
        self._sock = sock
        self._on_message = on_message
        self._closer = closer
        self._loop = asyncio.get_running_loop()
        self._stream = MessageStream()
        self._serial = 0
        self._replies: dict[int, asyncio.Future[Received]] = {}
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._reading = Readiness(sock, "the bus", self._readable)
        self._writing = Readiness(sock, "the bus", self._write, writing=True)
        self._closed: asyncio.Future[str] = self._loop.create_future()

    @classmethod
    async def open(
        cls, address: str, on_message: Callable[[Received], object], closer: Closer, *, files: bool
    ) -> "Connection":
        """Return a connection to the bus at `address`; with `files`, others may attach descriptors.

        OSError, TimeoutError or BusError if that is not possible.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, _socket_address(address))
                await _authenticate(sock, files=files)
        except BaseException:  # raised again: even after a cancellation, the socket must not leak
            sock.close()
            raise
        connection = cls(sock, on_message, closer)
        connection._reading.start()
        try:
            await connection.call(BUS, "Hello", "", results="s")
        except BaseException:  # raised again: even after a cancellation, the socket must not leak
            connection.close("the bus does not say hello")
            raise
        return connection

    async def call(
        self,
        peer: Peer,
        member: str,
        signature: str,
        *body: Any,
        results: str,
        seconds: float = _CALL_SECONDS,
    ) -> list[Any]:
        """Call `member` of `peer`; return its results of the types `results`.

        BusError with the text of an error reply, or if there is none in time or the results have other types.
        """
        message = Message(Kind.METHOD_CALL, *peer, member, signature=signature, body=body)
        reply: asyncio.Future[Received] = self._loop.create_future()
        serial = self.send(message)
        if self._closed.done():
            raise BusError(self._closed.result())
        self._replies[serial] = reply
        try:
            async with asyncio.timeout(seconds):
                received = await reply
        except TimeoutError:
            raise BusError(f"{peer.name} did not reply to {member} in time") from None
        finally:
            self._replies.pop(serial, None)
        if received.kind == Kind.ERROR:
            with suppress(MalformedError):
                raise BusError(f"{received.error_name}: {received.values('s', 1)[0]}")
            raise BusError(received.error_name)
        try:
            return received.values(results, _MAX_VALUES)
        except MalformedError as error:
            raise BusError(f"the reply of {peer.name} to {member} is unusable: {error}") from None

    def send(self, message: Message) -> int:
        """Send `message`; return its serial number. If the connection is closed, it is lost.

        MalformedError if it is longer than ``MAX_SENT``.
        """
        self._serial = self._serial % 0xFFFFFFFF + 1
        content = message.marshal(self._serial)
        if len(content) > MAX_SENT:
            raise MalformedError(f"message of {len(content)} bytes exceeds the limit of {MAX_SENT}")
        if not self._closed.done():
            self._unsent.append(memoryview(content))
            self._unsent_bytes += len(content)
            if len(self._unsent) == 1:
                self._write()
        return self._serial

    async def wait_closed(self) -> str:
        """Wait until the connection is closed, and return the reason."""
        return await asyncio.shield(self._closed)

    def close(self, reason: str) -> None:
        """Close the connection; calls without reply fail with `reason`."""
        if self._closed.done():
            return
        self._closed.set_result(reason)
        self._reading.stop()
        self._writing.stop()
        self._unsent.clear()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(BusError(reason))
        self._replies.clear()
        with suppress(OSError):  # the bus is gone
            self._sock.shutdown(socket.SHUT_RDWR)  # the bus must not wait until unread descriptors are closed
        self._closer.close(BUS, self._stream.close())
        self._closer.close_socket(BUS, self._sock)

    def _readable(self) -> None:
        size = _SKIPPED_CHUNK if self._stream.skipping else _CHUNK
        try:
            chunk, control, _, _ = self._sock.recvmsg(size, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
            if not chunk:
                raise EOFError("the bus closed the connection")
            messages = self._stream.receive(chunk, tuple(pull_descriptors(control)))
        except BlockingIOError:
            return
        except (OSError, EOFError, MalformedError) as error:
            self.close(str(error))
            return
        for message in messages:
            if message.kind not in (Kind.METHOD_RETURN, Kind.ERROR):
                self._on_message(message)
                continue
            self._closer.close(BUS, message.descriptors)
            reply = self._replies.pop(message.reply_serial, None)
            if reply is not None and not reply.done():
                reply.set_result(message)

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent[0])
                self._unsent_bytes -= sent
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            self._writing.start()
        except OSError as error:
            self.close(str(error))
            return
        else:
            self._writing.stop()
        if self._unsent_bytes <= MAX_UNSENT:
            self._reading.start()
        else:
            self._reading.stop()


def _socket_address(address: str) -> str:
    """Return the path or abstract name in `address`: ``system``, ``session``, or a D-Bus address.

    BusError if it has none, or cannot be parsed.
    """
    known = _KNOWN.get(address)
    candidates = []
    with suppress(InvalidAddressError, KeyError):  # KeyError: no session without HOME
        candidates = parse_address(address if known is None else get_bus_address(known))
    for transport, options in candidates:
        if transport == "unix" and "path" in options:
            return str(options["path"])
        if transport == "unix" and "abstract" in options:
            return f"\0{options['abstract']}"
    raise BusError(f"unsupported bus address {address!r}: use system, session, unix:path=PATH or unix:abstract=NAME")


async def _authenticate(sock: socket.socket, *, files: bool) -> None:
    """Authenticate by the socket's credentials (D-Bus specification, "Authentication Protocol")."""
    loop = asyncio.get_running_loop()
    authenticator = AuthExternal()
    await loop.sock_sendall(sock, b"\0")
    line = authenticator._authentication_start(negotiate_unix_fd=files)  # noqa: SLF001 - only MessageBus is public
    try:
        while True:
            await loop.sock_sendall(sock, line.encode() + b"\r\n")
            if line == "BEGIN":
                return
            line = authenticator._receive_line(await _answer(sock))  # noqa: SLF001 - see above
    except (AuthError, ValueError) as error:  # ValueError: an answer that is not in the specification
        raise BusError(f"the bus refused authentication as uid {os.getuid()}: {error}") from None


async def _answer(sock: socket.socket) -> str:
    """Return the next line from the bus."""
    answer = b""
    while not answer.endswith(b"\r\n"):
        chunk = await asyncio.get_running_loop().sock_recv(sock, _MAX_LINE)
        answer += chunk
        if not chunk or len(answer) > _MAX_LINE:
            raise BusError("the bus refused the connection during authentication")
    return answer.decode(errors="replace").rstrip()
