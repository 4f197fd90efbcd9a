"""The data path of a TCP connection: a handshake over records, then the kernel's TLS takes over.

The socket is shared with a consumer in the kernel: its flags are left alone (every call says MSG_DONTWAIT), nothing is
read beyond the record that is due, and it is out of the event loop before anybody closes it.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from handshaked.datapath.driver import Attempt
from handshaked.errors import HandshakeError, Status
from handshaked.events import Event, HandshakeComplete, HandshakeFailed
from handshaked.model import Outcome
from handshaked.session.stream import StreamSession
from handshaked.tls.record import RecordLayer

_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

HandOver = Callable[[socket.socket, RecordLayer], None]
"""Gives the connection to whoever protects its records from here on; LocalError if that fails."""
Conclude = Callable[[HandshakeComplete], HandshakeComplete]
"""Adds what else is to be reported of a handshake that is complete; HandshakeError if it cannot stand after all."""


class TcpPath:
    """Runs the session that `open_session` gives on `sock`; `report` is told the outcome, once."""

    def __init__(
        self,
        sock: socket.socket,
        open_session: Callable[[], StreamSession],
        hand_over: HandOver,
        conclude: Conclude,
        report: Callable[[Outcome], None],
    ) -> None:
        self._sock = sock
        self._open_session = open_session
        self._hand_over = hand_over
        self._conclude = conclude
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._unsent = b""
        self._complete: HandshakeComplete | None = None
        self._restore: Callable[[], None] = lambda: None

    # Set by start; nothing happens before.
    _attempt: Attempt
    _session: StreamSession

    def start(self, attempt: Attempt) -> None:
        """Begin the handshake, as the steps of `attempt`."""
        self._attempt = attempt
        attempt.step(self._begin)

    def deliver(self, events: list[Event]) -> None:
        """The session has sent what there was; nothing is left to be carried out."""

    def finish(self, outcome: Outcome) -> None:
        """Let go of the socket and report."""
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._restore()
        self._report(outcome)

    def _begin(self, now: float) -> list[Event]:
        try:
            self._session = self._open_session()
        except HandshakeError as error:
            return [HandshakeFailed.of(error)]
        self._restore = _without_delay(self._sock)
        self._loop.add_reader(self._sock, self._attempt.step, self._read)
        return self._go_on(self._session.start(now))

    def _read(self, now: float) -> list[Event]:
        while needed := self._session.needed():
            try:
                data = self._sock.recv(needed, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return []
            except OSError as error:
                return self._lost(f"the connection failed: {error.strerror}")
            if not data:
                return self._lost("the peer closed the connection in mid-handshake")
            events = self._go_on(self._session.receive(data, now))
            if events or self._complete is not None:
                return events
        return []

    def _write(self, now: float) -> list[Event]:
        return self._go_on([])

    def _go_on(self, events: list[Event]) -> list[Event]:
        """Send what there is; a complete handshake is reported when all is sent and the kernel has taken over."""
        last = events[-1] if events else None
        if isinstance(last, HandshakeComplete):
            self._complete = last
            self._loop.remove_reader(self._sock)
            # A client that uses Nagle's algorithm holds its first request back until its Finished is acknowledged.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._unsent += self._session.pull_outgoing()
        if not self._send() and not isinstance(last, HandshakeFailed):
            return []
        if isinstance(last, HandshakeFailed):
            return [last]
        if self._complete is None:
            return []
        try:
            self._hand_over(self._sock, self._session.records)
            return [self._conclude(self._complete)]
        except HandshakeError as error:
            return [HandshakeFailed.of(error)]

    def _send(self) -> bool:
        """Send as much as goes; whether that was all."""
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent, _SEND)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._attempt.step, self._write)
                return False
            except OSError as error:
                # What the peer said before it closed, an alert maybe, is still to be read; without it, reading fails.
                self._unsent = b""
                if self._complete is not None:
                    self._lost(f"the connection failed: {error.strerror}")
                return False
            self._unsent = self._unsent[sent:]
        self._loop.remove_writer(self._sock)
        return True

    def _lost(self, reason: str) -> list[Event]:
        self._attempt.abort(Status.PEER_GONE, reason)
        return []


def _without_delay(sock: socket.socket) -> Callable[[], None]:
    """Switch Nagle's algorithm off; what is returned brings the old state back."""
    before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    if before:
        return lambda: None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def restore() -> None:
        with suppress(OSError):  # the peer has reset the connection: there is nothing to delay any more
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

    return restore
