"""A blocking client of the handshake socket, for QUIC stacks without an event loop."""

import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from handshaked.events import CryptoData
from handshaked.model import Level, Role
from handshaked.shim.exchange import (
    DEFAULT_TIMEOUT,
    GRACE,
    NO_ANSWER,
    CallerMessages,
    Message,
    crypto_pieces,
    encoded_start,
)
from handshaked.system import directories
from handshaked.system.connecting import connect
from handshaked.wire.family import pull_from_daemon, push_crypto, push_transport_parameters
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import MAX_PACKET, Acknowledged, Done, FromDaemon, Lookup, LookupAnswer, Refused, Start

_T = TypeVar("_T")


class BlockingClient:
    """A connection to the daemon's handshake socket, for one handshake at a time. A context manager.

    `path` is the socket (default: the user's own daemon if there is one, else the system's). Each method waits for the
    daemon, and raises TimeoutError if it does not answer in time, ConnectionResetError if it closed the connection,
    another OSError if it cannot be reached, and FramingError if its packet is malformed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connect(self._sock, path or directories.handshake_socket())
        except OSError:
            self._sock.close()
            raise
        self._sequence = 0
        self._deadline = 0.0
        self._inbox: deque[tuple[int, FromDaemon]] = deque()
        self._messages = CallerMessages(Role.CLIENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The daemon abandons a handshake in progress."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for poll and similar calls."""
        return self._sock.fileno()

    def start(self, start: Start) -> list[Message]:
        """Begin the next handshake and return the messages it yields at once.

        OSError (EMSGSIZE) if `start` does not fit into a packet.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._messages = CallerMessages(start.role)
        self._deadline = time.monotonic() + (start.timeout or DEFAULT_TIMEOUT) + GRACE
        return self._ask(encoded_start(self._sequence, start))

    def receive(self, level: Level, data: bytes) -> list[Message]:
        """Pass on CRYPTO `data` that the peer sent at `level` and return the resulting messages.

        The last message of a handshake is a Done.
        """
        found: list[Message] = []
        for piece in crypto_pieces(data):
            found += self._ask(push_crypto(self._sequence, CryptoData(level, piece), ack=True))
            if found and isinstance(found[-1], Done):
                break
        return found

    def proceed(self, transport_parameters: bytes) -> list[Message]:
        """Provide a server's own `transport_parameters` if the Start did not contain them; return the messages."""
        return self._ask(push_transport_parameters(self._sequence, transport_parameters, ack=True))

    def look_up(self, lookup: Lookup) -> LookupAnswer:
        """Return which registration a ClientHello would select, without beginning a handshake."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._deadline = time.monotonic() + DEFAULT_TIMEOUT
        self._send(push_lookup(self._sequence, lookup))
        while True:
            message = self._receive()
            if isinstance(message, LookupAnswer):
                return message
            if isinstance(message, Refused):
                return LookupAnswer(status=message.error.status, reason=message.error.reason)

    def _ask(self, packet: bytes) -> list[Message]:
        """Send `packet` and collect messages until the acknowledgement or a Done."""
        self._send(packet)
        found: list[Message] = []
        while True:
            message = self._receive()
            if isinstance(message, Acknowledged):
                return found
            found.append(self._messages.translate(message))
            if isinstance(found[-1], Done):
                return found

    def _send(self, packet: bytes) -> None:
        self._wait_for(lambda: self._sock.send(packet, socket.MSG_NOSIGNAL))

    def _receive(self) -> FromDaemon:
        """Return the next message of the current handshake."""
        while True:
            while self._inbox:
                sequence, message = self._inbox.popleft()
                if sequence == self._sequence:
                    return message
            packet = self._wait_for(lambda: self._sock.recv(MAX_PACKET))
            if not packet:
                raise ConnectionResetError("the handshake daemon closed the connection")
            self._inbox += pull_from_daemon(packet)

    def _wait_for(self, operation: Callable[[], _T]) -> _T:
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            return operation()
        except TimeoutError:
            raise TimeoutError(NO_ANSWER.reason) from None
