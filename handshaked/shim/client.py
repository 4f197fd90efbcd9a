"""An asyncio client of the handshake socket, for QUIC stacks that run in userspace.

The stack passes in the peer's CRYPTO data. It gets back the CRYPTO data to send, the traffic secrets to install, and
finally a ``Done``. Private keys stay in the daemon.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path

from handshaked.errors import FramingError, Status
from handshaked.events import CryptoData, SessionTicket
from handshaked.model import Level, Outcome
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
from handshaked.wire.family import join_packets, pull_from_daemon, push_cancel, push_crypto, push_transport_parameters
from handshaked.wire.messages import MAX_PACKET, Acknowledged, Close, Done, FromDaemon, Start

OnMessage = Callable[[Message], None]

_MAX_UNSENT = 4 * 1024 * 1024


class PendingHandshake:
    """A handshake in progress, returned by ``HandshakeClient.start``.

    ``on_message`` is called with each message. The last one is a Done, except on a client that asked for session
    tickets: those arrive after Done, for as long as the client passes on what the server sends after the handshake.
    ``on_idle`` is called when the daemon has answered everything sent so far. If no message came before it, the
    daemon is waiting for more CRYPTO data.
    """

    def __init__(
        self,
        client: "HandshakeClient",
        sequence: int,
        on_message: OnMessage,
        on_idle: Callable[[], object],
        start: Start,
    ) -> None:
        timeout = start.timeout or DEFAULT_TIMEOUT
        self._ticket_seconds = start.ticket_seconds
        self._messages = CallerMessages(start.role)
        self._client = client
        self._sequence = sequence
        self._on_message: OnMessage | None = on_message
        self._on_idle = on_idle
        self._unanswered = 0
        self._done = False
        self._expiry = asyncio.get_running_loop().call_later(timeout + GRACE, self._expire)

    @property
    def over(self) -> bool:
        """True if no further message will be delivered: there is no use in passing anything on."""
        return self._on_message is None

    def start(self, message: bytes) -> None:
        """Send the encoded Start. For HandshakeClient only."""
        self._send(message)

    def receive(self, level: Level, data: bytes) -> None:
        """Pass on CRYPTO `data` that the peer sent at `level`, in order and without gaps or repetitions."""
        for piece in crypto_pieces(data):
            self._send(push_crypto(self._sequence, CryptoData(level, piece), ack=True))

    def proceed(self, transport_parameters: bytes) -> None:
        """Provide a server's own `transport_parameters` if the Start did not contain them."""
        self._send(push_transport_parameters(self._sequence, transport_parameters, ack=True))

    def cancel(self, reason: str = "") -> None:
        """Cancel the handshake. `reason` goes into the daemon's log. No further message is delivered."""
        if self._on_message is not None:
            self._client.send(push_cancel(self._sequence, reason))
            self._end()

    def deliver(self, message: FromDaemon) -> None:
        """Pass `message` to the caller. For HandshakeClient only."""
        on_message = self._on_message
        if on_message is None:
            return
        if isinstance(message, Acknowledged):
            self._unanswered -= 1
            if self._unanswered == 0:
                self._on_idle()
            return
        known = self._messages.translate(message)
        if self._done and not isinstance(known, SessionTicket):
            self._end()
            if isinstance(known, Close):
                on_message(known)
            return
        if isinstance(known, Done):
            self._done = True
            self._expiry.cancel()
            if known.outcome.status == 0 and self._ticket_seconds:
                self._expiry = asyncio.get_running_loop().call_later(self._ticket_seconds, self._end)
            else:
                self._end()
        on_message(known)

    def _send(self, message: bytes) -> None:
        if self._on_message is not None:
            self._unanswered += 1
            self._client.send(message)

    def _expire(self) -> None:
        self.deliver(Done(NO_ANSWER))

    def _end(self) -> None:
        self._on_message = None
        self._expiry.cancel()
        self._client.forget(self._sequence)


class HandshakeClient:
    """A connection to the daemon's handshake socket, shared by any number of handshakes of one event loop.

    `path` is the socket (default: the user's own daemon if there is one, else the system's). Nothing here blocks.
    Messages sent within one iteration of the loop share packets. If the daemon goes away, each handshake in progress
    gets a Done (ECONNRESET); the next ``start`` reconnects.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or directories.handshake_socket()
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
        """Begin a handshake. OSError if the daemon cannot be reached, or if `start` does not fit into a packet."""
        if self._sock is None:
            self._sock = self._connect()
        sequence = next(self._sequences) & 0xFFFFFFFF
        message = encoded_start(sequence, start)
        handshake = PendingHandshake(self, sequence, on_message, on_idle, start)
        self._handshakes[sequence] = handshake
        handshake.start(message)
        return handshake

    def close(self) -> None:
        """Close the connection. Each handshake in progress gets a Done (ECANCELED)."""
        self._drop(Outcome(status=Status.CANCELED, reason="the client of the handshake daemon was closed"))

    def send(self, message: bytes) -> None:
        """Queue an encoded `message` for the end of this loop iteration. For PendingHandshake only."""
        self._output.append(message)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def forget(self, sequence: int) -> None:
        """Remove the handshake `sequence`, which is over. For PendingHandshake only."""
        self._handshakes.pop(sequence, None)

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connect(sock, self._path)
        except OSError:
            sock.close()
            raise
        self._loop.add_reader(sock, self._read)
        return sock

    def _read(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            packet = sock.recv(MAX_PACKET)
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
        try:
            self._deliver(messages)
        finally:
            if framing is not None:  # after messages that an exception in a callback has delayed
                self._loop.call_soon(self._drop_malformed, sock, framing)

    def _deliver(self, messages: deque[tuple[PendingHandshake, FromDaemon]]) -> None:
        try:
            while messages:
                handshake, message = messages.popleft()
                handshake.deliver(message)
        finally:
            if messages:  # an exception in one callback must not affect the other handshakes
                self._loop.call_soon(self._deliver, messages)

    def _drop_malformed(self, sock: socket.socket, framing: FramingError) -> None:
        if self._sock is sock:  # a callback may have closed this client, and even connected it again
            self._drop(Outcome(reason=f"malformed packet from the daemon: {framing.reason}"))

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
                    reason = "the handshake daemon does not read its messages"
                    self._drop(Outcome(status=Status.PEER_GONE, reason=reason))
                else:
                    self._loop.add_writer(self._sock, self._write)
                return
            except OSError as error:
                reason = f"lost the connection to the handshake daemon: {error.strerror}"
                self._drop(Outcome(status=Status.PEER_GONE, reason=reason))
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)
