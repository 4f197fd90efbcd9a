"""A small blocking bus client, which can also send what libraries would not: for honest callers and attackers."""

import os
import socket
from collections import deque
from types import TracebackType
from typing import Any, Self

from handshaked.control.bus.messages import Kind, Message, MessageStream, Received
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors
from tests.patience import PATIENCE

NAME = "org.handshaked.Handshaked1"
PATH = "/org/handshaked/Handshaked1"
MANAGER = "org.handshaked.Handshaked1.Manager"
BUS = "org.freedesktop.DBus"


class BlockingBus:
    """A connection to the bus at `address` (``unix:path=..``), as a context manager."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(address.removeprefix("unix:path="))
        self._stream = MessageStream()
        self._received: deque[Received] = deque()
        self._serial = 0
        uid = str(os.geteuid()).encode().hex()
        for line in (f"\0AUTH EXTERNAL {uid}", "NEGOTIATE_UNIX_FD"):
            self._sock.sendall(line.encode() + b"\r\n")
            answer = self._sock.recv(4096)
            assert answer.startswith((b"OK", b"AGREE")), answer
        self._sock.sendall(b"BEGIN\r\n")
        self.name = self.call("Hello", destination=BUS, path="/org/freedesktop/DBus", interface=BUS, results="s")[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()

    def call(self, member: str, signature: str = "", *body: Any, results: str, **options: Any) -> list[Any]:
        """Call a method of the manager, or of another object by `options`; AssertionError if the reply is an error."""
        reply = self.ask(member, signature, *body, **options)
        assert reply.kind == Kind.METHOD_RETURN, (reply.error_name, reply.values("s", 1))
        return reply.values(results, 10_000)

    def ask(self, member: str, signature: str = "", *body: Any, **options: Any) -> Received:
        """Call a method; return the reply, which may be an error."""
        serial = self.send(member, signature, *body, **options)
        while (message := self.receive()).reply_serial != serial:
            pass
        return message

    def send(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        kind: Kind = Kind.METHOD_CALL,
        descriptors: tuple[int, ...] = (),
        destination: str = NAME,
        path: str = PATH,
        interface: str = MANAGER,
    ) -> int:
        """Send a message; return its serial."""
        self._serial += 1
        files = len(descriptors)
        message = Message(kind, destination, path, interface, member, signature=signature, body=body, files=files)
        return self.send_marshalled(message.marshal(self._serial), descriptors)

    def send_marshalled(self, content: bytes | bytearray, descriptors: tuple[int, ...] = ()) -> int:
        """Send the bytes of a message; return the serial of the last message made here."""
        sent = self._sock.sendmsg([content], push_descriptors(descriptors))
        self._sock.sendall(memoryview(content)[sent:])
        return self._serial

    def receive(self) -> Received:
        """Return the next message; EOFError if the bus has closed the connection."""
        while not self._received:
            chunk, control, _, _ = self._sock.recvmsg(1 << 18, CONTROL_SPACE)
            close_all(pull_descriptors(control))
            if not chunk:
                raise EOFError("the bus has closed the connection")
            self._received.extend(self._stream.receive(chunk))
        return self._received.popleft()
