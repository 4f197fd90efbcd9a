"""Clients of the Unix door, for any userspace QUIC stack: one for asyncio, one that blocks.

The stack feeds in the peer's CRYPTO data and gets back what it must send, the secrets it must install, and in the
end a ``Done``. Private keys stay in the daemon.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from handshaked.errors import FramingError, Status
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import Level, Outcome
from handshaked.system import directories
from handshaked.wire.family import (
    join_packets,
    pull_from_daemon,
    push_cancel,
    push_crypto,
    push_lookup,
    push_start,
    push_transport_parameters,
)
from handshaked.wire.messages import (
    MAX_PACKET,
    Acknowledged,
    Done,
    FromDaemon,
    Lookup,
    LookupAnswer,
    Malformed,
    Refused,
    Start,
)

Message = CryptoData | TrafficSecret | PeerTransportParameters | Done | SessionTicket
OnMessage = Callable[[Message], None]
_T = TypeVar("_T")

_GRACE = 1.0  # seconds beyond a handshake's own deadline after which the daemon itself is taken for lost
_DEFAULT_TIMEOUT = 8.0
_MAX_UNSENT = 4 * 1024 * 1024
_LARGEST_CRYPTO = MAX_PACKET // 2


def default_socket() -> Path:
    """Where the daemon listens, if nothing else is said."""
    return directories.handshake_socket()


class PendingHandshake:
    """A handshake in the daemon's hands.

    ``on_message`` gets its messages. A Done ends them, but for the session tickets that a client may have asked for:
    those it gets as long as it passes on what the server sends behind the handshake. ``on_idle`` is called when the
    daemon has answered everything it was given, which may be without a message: it waits for more CRYPTO data then.
    """

    def __init__(
        self,
        client: "HandshakeClient",
        sequence: int,
        on_message: OnMessage,
        on_idle: Callable[[], object],
        start: Start,
    ) -> None:
        timeout = start.timeout or _DEFAULT_TIMEOUT
        self._ticket_seconds = start.ticket_seconds
        self._client = client
        self._sequence = sequence
        self._on_message: OnMessage | None = on_message
        self._on_idle = on_idle
        self._unanswered = 0
        self._done = False
        self._lost = asyncio.get_running_loop().call_later(timeout + _GRACE, self._time_out)

    def start(self, message: bytes) -> None:
        """Begin with the encoded Start; called by the client."""
        self._send(message)

    def receive(self, level: Level, data: bytes) -> None:
        """Pass on CRYPTO `data` that the peer sent at `level`."""
        for piece in _pieces(data):
            self._send(push_crypto(self._sequence, CryptoData(level, piece), ack=True))

    def proceed(self, transport_parameters: bytes) -> None:
        """Give a server's own `transport_parameters`, if they were not in the Start."""
        self._send(push_transport_parameters(self._sequence, transport_parameters, ack=True))

    def cancel(self, reason: str = "") -> None:
        """Give the handshake up, for a `reason` that the daemon's log shall tell; no message comes any more."""
        if self._on_message is not None:
            self._client.send(push_cancel(self._sequence, reason))
            self._end()

    def deliver(self, message: FromDaemon) -> None:
        """Hand `message` to whoever waits for it; called by the client."""
        on_message = self._on_message
        if on_message is None:
            return
        if isinstance(message, Acknowledged):
            self._unanswered -= 1
            if self._unanswered == 0:
                self._on_idle()
            return
        known = _message(message)
        if self._done and not isinstance(known, SessionTicket):
            self._end()
            return
        if isinstance(known, Done):
            self._done = True
            self._lost.cancel()
            if known.outcome.status == 0 and self._ticket_seconds:
                self._lost = asyncio.get_running_loop().call_later(self._ticket_seconds, self._end)
            else:
                self._end()
        on_message(known)

    def _send(self, message: bytes) -> None:
        if self._on_message is not None:
            self._unanswered += 1
            self._client.send(message)

    def _time_out(self) -> None:
        outcome = Outcome(status=Status.TIMED_OUT, reason="the handshake daemon does not answer")
        self.deliver(Done(outcome))

    def _end(self) -> None:
        self._on_message = None
        self._lost.cancel()
        self._client.forget(self._sequence)


class HandshakeClient:
    """A connection to the daemon that many handshakes share, for one event loop.

    Nothing here blocks. Messages sent within one turn of the loop travel in one packet. When the daemon goes away
    each open handshake gets a Done (ECONNRESET), and the next ``start`` connects anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_socket()
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._sequences = count(1)
        self._handshakes: dict[int, PendingHandshake] = {}
        self._output: list[bytes] = []
        self._unsent: deque[bytes] = deque()
        self._flush_planned = False

    def start(
        self, start: Start, on_message: OnMessage, on_idle: Callable[[], object] = lambda: None
    ) -> PendingHandshake:
        """Begin a handshake. OSError if the daemon cannot be reached, or if `start` is longer than a packet may be."""
        if self._sock is None:
            self._sock = self._connect()
        sequence = next(self._sequences) & 0xFFFFFFFF
        message = _encoded(sequence, start)
        handshake = PendingHandshake(self, sequence, on_message, on_idle, start)
        self._handshakes[sequence] = handshake
        handshake.start(message)
        return handshake

    def close(self) -> None:
        """Close the connection; open handshakes get a Done (ECANCELED)."""
        self._drop(Outcome(status=Status.CANCELED, reason="the client of the handshake daemon was closed"))

    def send(self, message: bytes) -> None:
        """Send an encoded `message` with the others of this turn of the loop."""
        self._output.append(message)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def forget(self, sequence: int) -> None:
        """The handshake `sequence` is over."""
        self._handshakes.pop(sequence, None)

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(os.fspath(self._path))
        except OSError:
            sock.close()
            raise
        self._loop.add_reader(sock, self._read)
        return sock

    def _read(self) -> None:
        if self._sock is None:
            return
        try:
            packet = self._sock.recv(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop(Outcome(status=Status.PEER_GONE, reason="the handshake daemon closed the connection"))
            return
        messages: deque[tuple[PendingHandshake, FromDaemon]] = deque()
        framing: FramingError | None = None
        try:
            for sequence, message in pull_from_daemon(packet):
                if sequence in self._handshakes:
                    messages.append((self._handshakes[sequence], message))
        except FramingError as error:
            framing = error
        self._deliver(messages)
        if framing is not None:
            self._drop(Outcome(reason=f"the daemon's packet falls apart: {framing.reason}"))

    def _deliver(self, messages: deque[tuple[PendingHandshake, FromDaemon]]) -> None:
        try:
            while messages:
                handshake, message = messages.popleft()
                handshake.deliver(message)
        finally:
            if messages:  # the fault of one callback is not the others'
                self._loop.call_soon(self._deliver, messages)

    def _drop(self, outcome: Outcome) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._sock = None
        self._output.clear()
        self._unsent.clear()
        self._deliver(deque((handshake, Done(outcome)) for handshake in self._handshakes.values()))

    def _flush(self) -> None:
        self._flush_planned = False
        if self._output:
            self._unsent += join_packets(self._output)
            self._output.clear()
        self._write()

    def _write(self) -> None:
        if self._sock is None:
            return
        while self._unsent:
            try:
                self._sock.send(self._unsent[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if sum(map(len, self._unsent)) > _MAX_UNSENT:
                    reason = "the handshake daemon does not read what it is sent"
                    self._drop(Outcome(status=Status.PEER_GONE, reason=reason))
                else:
                    self._loop.add_writer(self._sock, self._write)
                return
            except OSError as error:
                self._drop(Outcome(status=Status.PEER_GONE, reason=f"the handshake daemon is gone: {error.strerror}"))
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)


class BlockingClient:
    """A connection to the daemon for programs without an event loop; one handshake at a time. A context manager."""

    def __init__(self, path: Path | None = None) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.connect(os.fspath(path or default_socket()))
        except OSError:
            self._sock.close()
            raise
        self._sequence = 0
        self._deadline = 0.0
        self._inbox: deque[tuple[int, FromDaemon]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon gives up what is under way."""
        self._sock.close()

    def fileno(self) -> int:
        """The socket, to wait on it together with others."""
        return self._sock.fileno()

    def start(self, start: Start) -> list[Message]:
        """Begin the next handshake: what the daemon has to say to that. OSError if `start` is longer than a packet."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._deadline = time.monotonic() + (start.timeout or _DEFAULT_TIMEOUT) + _GRACE
        return self._ask(_encoded(self._sequence, start))

    def receive(self, level: Level, data: bytes) -> list[Message]:
        """Pass on CRYPTO `data` that the peer sent at `level`: what follows from it. The last of all is a Done."""
        found: list[Message] = []
        for piece in _pieces(data):
            found += self._ask(push_crypto(self._sequence, CryptoData(level, piece), ack=True))
            if found and isinstance(found[-1], Done):
                break
        return found

    def proceed(self, transport_parameters: bytes) -> list[Message]:
        """Give a server's own `transport_parameters`, if they were not in the Start: what follows."""
        return self._ask(push_transport_parameters(self._sequence, transport_parameters, ack=True))

    def look_up(self, lookup: Lookup) -> LookupAnswer:
        """Which registration a ClientHello would get."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._deadline = time.monotonic() + _DEFAULT_TIMEOUT
        self._send(push_lookup(self._sequence, lookup))
        while True:
            message = self._receive()
            if isinstance(message, LookupAnswer):
                return message
            if isinstance(message, Refused):
                return LookupAnswer(status=message.error.status, reason=message.error.reason)

    def _ask(self, packet: bytes) -> list[Message]:
        """Send `packet` and collect what comes until it is acknowledged, or until a Done."""
        self._send(packet)
        found: list[Message] = []
        while True:
            message = self._receive()
            if isinstance(message, Acknowledged):
                return found
            found.append(_message(message))
            if isinstance(found[-1], Done):
                return found

    def _send(self, packet: bytes) -> None:
        self._wait_for(lambda: self._sock.send(packet, socket.MSG_NOSIGNAL))

    def _receive(self) -> FromDaemon:
        """The next message of the current handshake."""
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
            raise TimeoutError("the handshake daemon does not answer") from None


def _pieces(data: bytes) -> list[bytes]:
    """`data` in pieces of which each fits into a packet; one of no bytes if there are none."""
    return [data[start : start + _LARGEST_CRYPTO] for start in range(0, max(len(data), 1), _LARGEST_CRYPTO)]


def _encoded(sequence: int, start: Start) -> bytes:
    """`start` as a packet can carry it: one that is too long costs the connection, and what else is on it."""
    message = push_start(sequence, start, ack=True)
    if len(message) > MAX_PACKET:
        reason = (
            f"a Start of {len(message)} bytes, with {len(start.trust_anchors)} trust anchors; the limit is {MAX_PACKET}"
        )
        raise OSError(Status.TOO_LONG, reason)
    return message


def _message(message: FromDaemon) -> Message:
    if isinstance(message, Refused):
        return Done(Outcome(status=message.error.status, reason=message.error.reason))
    if isinstance(message, Malformed):
        return Done(Outcome(reason=f"the daemon's message is malformed: {message.error.reason}"))
    if isinstance(message, LookupAnswer | Acknowledged):
        return Done(Outcome(reason="the daemon answered a question that was not asked"))
    return message
