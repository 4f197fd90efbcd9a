"""The data path of a QUIC socket: reads and writes its CRYPTO data, installs its secrets; the kernel does the rest.

Secrets from a step of the session are installed before its messages are sent, as the kernel requires. The socket is
shared with the caller; it is removed from the event loop before anyone closes it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from handshaked.datapath.driver import Attempt, End
from handshaked.datapath.quic_options import (
    CONNECTION_CLOSE_SIZE,
    MAX_ALPN,
    MAX_SESSION_TICKET,
    MAX_TRANSPORT_PARAMETERS,
    MIN_SESSION_TICKET,
    Config,
    ConnectionClose,
    Option,
    pull_alpns,
    pull_connection_close,
    push_alpns,
    push_connection_close,
    push_crypto_secret,
    read_config,
)
from handshaked.datapath.quic_socket import QuicSocket
from handshaked.errors import HandshakeError, LocalError, Status
from handshaked.events import (
    CryptoData,
    Event,
    HandshakeComplete,
    HandshakeFailed,
    PeerTransportParameters,
    SessionTicket,
    TrafficSecret,
)
from handshaked.model import Level, Outcome, Role
from handshaked.session.registered import Session

log = logging.getLogger(__name__)

_NEW_SESSION_TICKET = 4
_TICKET_INTERVAL = 0.05
_MAX_READS = 64  # in one step


@dataclass(frozen=True, slots=True)
class SocketState:
    """The options of a socket before its handshake; a server's ``transport_parameters`` are known later."""

    alpns: tuple[bytes, ...]
    session_ticket: bytes = field(repr=False)
    config: Config
    transport_parameters: bytes | None = None


OpenSession = Callable[[SocketState], Session]
"""Returns the session for a socket in that state; HandshakeError if there can be none."""
Conclude = Callable[[HandshakeComplete], HandshakeComplete]
"""Adds what else is reported of a complete handshake; HandshakeError if it must fail after all."""


class QuicPath:
    """Runs the session that `open_session` returns on `sock`; calls `report` once, with the outcome.

    A client whose socket or request asks for session tickets reports success when one has arrived. The kernel has no
    event for that, so the socket is polled until ``ticket_seconds`` have passed or the deadline is near.
    """

    def __init__(
        self,
        sock: QuicSocket,
        role: Role,
        open_session: OpenSession,
        conclude: Conclude,
        report: Callable[[Outcome], None],
    ) -> None:
        self._sock = sock
        self._role = role
        self._open_session = open_session
        self._conclude = conclude
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[Level, bytes, bool]] = deque()
        self._complete: HandshakeComplete | None = None
        self._ticket_timer: asyncio.TimerHandle | None = None
        self._tickets_until = 0.0

    # Set by start; nothing happens before.
    _attempt: Attempt
    _session: Session
    _state: SocketState

    def start(self, attempt: Attempt) -> None:
        """Begin the handshake; its steps are those of `attempt`."""
        self._attempt = attempt
        attempt.step(self._guarded, self._begin)

    def finish(self, outcome: Outcome) -> None:
        """Release the socket and report `outcome`; its QUIC error is sent to the peer when the socket is closed."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        if self._ticket_timer is not None:
            self._ticket_timer.cancel()
        if outcome.quic_error is not None:
            close = ConnectionClose.of_error(outcome.quic_error)
            with suppress(OSError):  # the connection is gone already
                self._sock.set_option(Option.CONNECTION_CLOSE, push_connection_close(close))
        self._report(outcome)

    def _guarded(self, step: Callable[[float], End | None], now: float) -> End | None:
        try:
            return step(now)
        except HandshakeError as error:
            return HandshakeFailed.of(error)
        except OSError as error:
            self._attempt.abort(*self._cause(error))
            return None

    def _cause(self, error: OSError) -> tuple[int, str]:
        """Return the status and reason for a failed socket; of a closed connection, the peer's alert if it sent one."""
        if not isinstance(error, ConnectionError) and error.errno != Status.NOT_CONNECTED:
            return Status.FAILED, f"the QUIC socket failed: {error.strerror}"
        close = None
        with suppress(OSError):  # the socket itself has failed
            close = pull_connection_close(self._sock.option(Option.CONNECTION_CLOSE, CONNECTION_CLOSE_SIZE))
        if close is None or not close.error_code:
            return Status.PEER_GONE, "the connection was closed"
        if close.alert is not None:
            return close.alert.errno, f"the peer sent the alert {close.alert.label}"
        if close.is_violation:
            return Status.REFUSED, "the peer closed the connection with PROTOCOL_VIOLATION"
        return Status.PEER_GONE, f"the connection was closed with QUIC error {close.error_code:#x}"

    def _begin(self, now: float) -> End | None:
        self._state = state = self._read_state()
        self._session = self._open_session(state)
        self._loop.add_reader(self._sock.fileno(), self._attempt.step, self._guarded, self._read)
        return self._carry_out(self._session.start(now), now) or self._read(now)

    def _read_state(self) -> SocketState:
        alpns = pull_alpns(self._sock.option(Option.ALPN, MAX_ALPN))
        ticket = self._sock.option(Option.SESSION_TICKET, MAX_SESSION_TICKET)
        config = read_config(self._sock.option)
        parameters = self._own_parameters() if self._role is Role.CLIENT else None
        return SocketState(alpns, ticket, config, parameters)

    def _own_parameters(self) -> bytes:
        return self._sock.option(Option.TRANSPORT_PARAM_EXT, MAX_TRANSPORT_PARAMETERS)

    def _read(self, now: float) -> End | None:
        # After the handshake, everything on the socket is for the caller.
        for _ in range(_MAX_READS):
            received = None if self._complete is not None else self._sock.receive()
            if received is None:
                return None
            end = self._carry_out(self._session.receive(*received, now), now)
            if end is not None:
                return end
        self._loop.call_soon(self._attempt.step, self._guarded, self._read)
        return None

    def _write(self, now: float) -> End | None:
        self._send()
        return self._conclude_when_sent(now)

    def _carry_out(self, events: list[Event], now: float) -> End | None:
        """Carry out `events`; return the one that ends the handshake if it ends now."""
        own_parameters_due = False
        last = events[-1] if events else None
        if isinstance(last, HandshakeFailed):
            return last
        for event in events:
            if isinstance(event, TrafficSecret):
                self._sock.set_option(Option.CRYPTO_SECRET, push_crypto_secret(event))
            elif isinstance(event, PeerTransportParameters):
                own_parameters_due = self._agree(event)
        messages = [message for event in events if isinstance(event, CryptoData) for message in _split(event)]
        self._unsent += [(*message, message is not messages[-1]) for message in messages]
        self._send()
        if isinstance(last, HandshakeComplete):
            self._complete = last
            self._loop.remove_reader(self._sock.fileno())
        if own_parameters_due:
            return self._carry_out(self._session.proceed(self._own_parameters(), now), now)
        return self._conclude_when_sent(now)

    def _agree(self, event: PeerTransportParameters) -> bool:
        """Install what the peer sent; return whether the session now needs this side's transport parameters."""
        self._sock.set_option(Option.TRANSPORT_PARAM_EXT, event.transport_parameters)
        if self._role is Role.CLIENT:
            return False
        if event.alpn:
            self._sock.set_option(Option.ALPN, push_alpns((event.alpn,)))
        return True

    def _send(self) -> None:
        while self._unsent:
            level, message, more = self._unsent[0]
            try:
                self._sock.send(level, message, more=more)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._attempt.step, self._guarded, self._write)
                return
            except OSError:
                if level is not Level.APPLICATION:
                    raise
                # Tickets: the peer may have closed already; the handshake was complete nevertheless.
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _conclude_when_sent(self, now: float) -> End | None:
        if self._complete is None or self._unsent:
            return None
        if self._tickets_until:
            return None  # only a ticket is awaited, by a timer
        self._complete = self._conclude(self._complete)
        seconds = max(self._state.config.ticket_seconds, self._attempt.ticket_seconds)
        if self._role is Role.SERVER or not seconds:
            return self._complete
        self._tickets_until = now + min(seconds, self._attempt.seconds_left * 0.9)
        return self._take_ticket(now)

    def _take_ticket(self, now: float) -> End | None:
        """Poll for a session ticket; report the handshake when one has arrived or the time is up."""
        complete = self._complete
        if complete is None:
            raise LocalError("a session ticket requires a complete handshake")
        with suppress(OSError):  # the peer may have closed already; the handshake was complete nevertheless
            ticket = self._sock.option(Option.SESSION_TICKET, MAX_SESSION_TICKET)
            if ticket[:1] != bytes((_NEW_SESSION_TICKET,)) or ticket == self._state.session_ticket:
                if now >= self._tickets_until:
                    return complete
                self._ticket_timer = self._loop.call_later(
                    _TICKET_INTERVAL, self._attempt.step, self._guarded, self._take_ticket
                )
                return None
            return self._store_ticket(ticket, now) or complete
        return complete

    def _store_ticket(self, ticket: bytes, now: float) -> HandshakeFailed | None:
        """Store a NewSessionTicket in the socket for the next connection; one that does not fit is dropped.

        Return the failure if the ticket violates the protocol: the connection must be closed.
        """
        if len(ticket) < 4 + int.from_bytes(ticket[1:4]):
            log.info("session ticket dropped: it does not fit the socket option, which returned %d bytes", len(ticket))
            return None
        for event in self._session.receive(Level.APPLICATION, ticket, now):
            if isinstance(event, HandshakeFailed):
                return event
            if not isinstance(event, SessionTicket):
                continue
            if MIN_SESSION_TICKET <= len(event.state) <= MAX_SESSION_TICKET:
                self._sock.set_option(Option.SESSION_TICKET, event.state)
            else:
                log.info(
                    "session ticket dropped: its state of %d bytes does not fit the socket option", len(event.state)
                )
        return None


def _split(event: CryptoData) -> list[tuple[Level, bytes]]:
    """Split `event` into handshake messages (RFC 8446 section 4)."""
    messages = []
    position = 0
    while position < len(event.data):
        end = position + 4 + int.from_bytes(event.data[position + 1 : position + 4])
        messages.append((event.level, event.data[position:end]))
        position = end
    return messages
