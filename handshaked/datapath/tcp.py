"""The data path of a TCP connection: a handshake in TLS records, after which the kernel's TLS takes over.

The socket is shared with a consumer in the kernel. Its flags are left alone (every call has MSG_DONTWAIT), nothing is
read beyond the current record, and it is removed from the event loop before anyone closes it.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from handshaked.datapath.driver import Attempt, End
from handshaked.errors import HandshakeError, Status
from handshaked.events import Event, HandshakeComplete, HandshakeFailed
from handshaked.model import Outcome
from handshaked.session.stream import StreamSession
from handshaked.tls.record import RecordLayer

_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_MAX_READS = 64  # in one step; a peer can fill the socket's buffer with thousands of tiny records

Offload = Callable[[socket.socket, RecordLayer], None]
"""Moves record protection to the kernel; LocalError if that fails."""
Conclude = Callable[[HandshakeComplete], HandshakeComplete]
"""Adds what else is reported of a complete handshake; HandshakeError if it must fail after all."""


class TcpPath:
    """Runs the session that `open_session` returns on `sock`; calls `report` once, with the outcome."""

    def __init__(
        self,
        sock: socket.socket,
        open_session: Callable[[], StreamSession],
        offload: Offload,
        conclude: Conclude,
        report: Callable[[Outcome], None],
    ) -> None:
        self._sock = sock
        self._open_session = open_session
        self._offload = offload
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
        """Begin the handshake; its steps are those of `attempt`."""
        self._attempt = attempt
        attempt.step(self._guarded, self._begin)

    def finish(self, outcome: Outcome) -> None:
        """Release the socket and report `outcome`."""
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._restore()
        self._report(outcome)

    def _guarded(self, step: Callable[[float], End | None], now: float) -> End | None:
        try:
            return step(now)
        except HandshakeError as error:
            return HandshakeFailed.of(error)
        except OSError as error:  # also of the event loop, if the kernel has no memory to watch the socket
            self._attempt.abort(Status.FAILED, f"the TCP socket failed: {error.strerror}")
            return None

    def _begin(self, now: float) -> End | None:
        self._session = self._open_session()
        self._restore = _without_delay(self._sock)
        self._loop.add_reader(self._sock, self._attempt.step, self._guarded, self._read)
        return self._carry_out(self._session.start(now))

    def _read(self, now: float) -> End | None:
        for _ in range(_MAX_READS):
            needed = self._session.needed()
            if not needed:
                return None
            try:
                data = self._sock.recv(needed, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                self._lose(f"the connection failed: {error.strerror}")
                return None
            if not data:
                self._lose("the peer closed the connection during the handshake")
                return None
            end = self._carry_out(self._session.receive(data, now))
            if end is not None or self._complete is not None:
                return end
        return None

    def _write(self, now: float) -> End | None:
        return self._carry_out([])

    def _carry_out(self, events: list[Event]) -> End | None:
        """Send pending bytes; return the end of the handshake when everything is sent and the kernel has taken over."""
        last = events[-1] if events else None
        if isinstance(last, HandshakeComplete):
            self._complete = last
            self._loop.remove_reader(self._sock)
            # A client that uses Nagle's algorithm delays its first request until its Finished is acknowledged.
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._unsent += self._session.pull_outgoing()
        sent = self._send()
        if isinstance(last, HandshakeFailed):
            return last
        if not sent or self._complete is None:
            return None
        self._offload(self._sock, self._session.records)
        return self._conclude(self._complete)

    def _send(self) -> bool:
        """Send what the socket accepts; return whether nothing is left to send."""
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent, _SEND)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._attempt.step, self._guarded, self._write)
                return False
            except OSError as error:
                # The peer may have sent an alert before it closed: read that first; if there is none, reading fails.
                self._unsent = b""
                if self._complete is not None:
                    self._lose(f"the connection failed: {error.strerror}")
                return False
            self._unsent = self._unsent[sent:]
        self._loop.remove_writer(self._sock)
        return True

    def _lose(self, reason: str) -> None:
        self._attempt.abort(Status.PEER_GONE, reason)


def _without_delay(sock: socket.socket) -> Callable[[], None]:
    """Disable Nagle's algorithm; return a function that restores the previous setting."""
    before = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    if before:
        return lambda: None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def restore() -> None:
        with suppress(OSError):  # the peer has reset the connection: there is nothing left to delay
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

    return restore
