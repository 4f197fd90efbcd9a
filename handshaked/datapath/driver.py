"""One request from start to outcome: a deadline, the handshake's steps, and exactly one report.

The path has two shapes.

Userspace endpoint, with messages on the Unix socket: the driver owns the session and delivers the session's events to
the data path, which encodes them as messages::

    Endpoint ──receive──► Driver ◄──events── Session
       ▲                    │
       │             deliver, finish
       │                    ▼
       └────messages──── MessagePath

QUIC and TCP sockets: the data path owns the session. It reads the socket, carries out the session's events itself, and
tells the attempt only when one of them ends the handshake::

    socket ◄──bytes──► TcpPath, QuicPath ◄──events── Session
                          │         ▲
                         step     finish
                          ▼         │
                            Attempt

Both fail closed: an outcome starts as EIO, and only HandshakeComplete, which follows a verified Finished, makes it a
success. Everything runs on the event loop's thread; an attempt is re-entered only by ``abort``.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVarTuple

from handshaked.errors import Status
from handshaked.events import Event, HandshakeComplete, HandshakeFailed, SessionTicket
from handshaked.model import Level, Outcome, Request
from handshaked.session.registered import Session

log = logging.getLogger(__name__)

End = HandshakeComplete | HandshakeFailed
"""The event that ends a handshake."""
Observer = Callable[[Request, Outcome, float], None]
"""Called with each request, its outcome, and its duration in seconds."""
Arguments = TypeVarTuple("Arguments")


class Attempt:
    """Runs the steps of `request` until one of them ends it, then calls `finish` and `observe` with the outcome.

    `registration` returns the name of the registration that was selected, None before that.
    """

    def __init__(
        self,
        request: Request,
        finish: Callable[[Outcome], None],
        observe: Observer,
        registration: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._request = request
        self._registration = registration
        self._finish_path = finish
        self._observe = observe
        self._started = time.monotonic()
        self._deadline = asyncio.get_running_loop().call_later(request.timeout, self._expire)
        self.finished = False
        """True once the outcome is being reported."""

    @property
    def ticket_seconds(self) -> float:
        """The time in which a client's endpoint accepts session tickets after the handshake, in seconds."""
        return self._request.ticket_seconds

    @property
    def seconds_left(self) -> float:
        """The seconds until the deadline."""
        return max(0.0, self._started + self._request.timeout - time.monotonic())

    def abort(self, status: int, reason: str) -> None:
        """End the handshake with `status`, unless it has ended already."""
        self._finish(Outcome(status=status, reason=reason))

    def _expire(self) -> None:
        self.abort(Status.TIMED_OUT, f"no Finished from the peer within {self._request.timeout:g} s")

    def step(self, step: Callable[[*Arguments, float], End | None], *arguments: *Arguments) -> None:
        """Call `step` with `arguments` and the current time in Unix seconds; an event that it returns is the end.

        Do nothing after the outcome.
        """
        if self.finished:
            return
        try:
            end = step(*arguments, time.time())
            if end is not None:
                self._finish(_outcome(end))
        except Exception:  # a boundary: the log and the outcome report it, and other handshakes go on
            log.exception("unexpected error in a handshake of %s", self._request.caller)
            self._finish(Outcome(reason="internal error; the daemon's log has the details"))

    def _finish(self, outcome: Outcome) -> None:
        if self.finished:
            return
        self.finished = True
        self._deadline.cancel()
        finish = self._finish_path
        self._finish_path = _nothing  # break the cycle: it usually refers to this attempt
        try:
            finish(outcome)
        except Exception:  # the same boundary: a timer or an upcall source called abort, and has others to serve
            log.exception("cannot report the outcome of a handshake of %s", self._request.caller)
            outcome = Outcome(reason="the outcome could not be reported")
        # The log names the registration of a failed handshake; the endpoint learns it only on success.
        if outcome.status:
            outcome = replace(outcome, registration=self._registration())
        self._observe(self._request, outcome, time.monotonic() - self._started)


class DataPath(Protocol):
    """The destination of a driver's events."""

    def deliver(self, events: list[Event]) -> None:
        """Carry out `events`, in order; none of them ends the handshake.

        After the handshake, HandshakeFailed ends the connection.
        """
        ...

    def finish(self, outcome: Outcome) -> None:
        """Report `outcome` to the endpoint and release everything."""
        ...


class Driver(Attempt):
    """Runs a `session` that is fed with handshake messages, and delivers its events to `data_path`.

    A client that asked for session tickets keeps its driver for ``ticket_seconds`` after the outcome.
    """

    def __init__(self, request: Request, session: Session, data_path: DataPath, observe: Observer) -> None:
        super().__init__(request, self._finish_data_path, observe, lambda: session.registration)
        self._session = session
        self._data_path = data_path
        self.takes_tickets = False

    def start(self) -> None:
        """Begin the handshake."""
        self.step(self._start)

    def receive(self, level: Level, data: bytes) -> None:
        """Handle CRYPTO `data` of `level` from the peer."""
        if self.finished:
            self._receive_tickets(level, data)
        else:
            self.step(self._receive, level, data)

    def proceed(self, transport_parameters: bytes) -> None:
        """Continue with the endpoint's own transport parameters."""
        self.step(self._proceed, transport_parameters)

    def _start(self, now: float) -> End | None:
        return self._deliver(self._session.start(now))

    def _receive(self, level: Level, data: bytes, now: float) -> End | None:
        return self._deliver(self._session.receive(level, data, now))

    def _proceed(self, transport_parameters: bytes, now: float) -> End | None:
        return self._deliver(self._session.proceed(transport_parameters, now))

    def _deliver(self, events: list[Event]) -> End | None:
        """Deliver `events`, except the one that ends the handshake, which is returned."""
        last = events[-1] if events else None
        if isinstance(last, HandshakeComplete | HandshakeFailed):
            self._data_path.deliver(events[:-1])
            return last
        self._data_path.deliver(events)
        return None

    def _finish_data_path(self, outcome: Outcome) -> None:
        self.takes_tickets = outcome.status == 0 and self._request.ticket_seconds > 0
        self._data_path.finish(outcome)

    def _receive_tickets(self, level: Level, data: bytes) -> None:
        """Deliver session tickets, or that the connection must be closed; our own errors only lose tickets."""
        if not self.takes_tickets:
            return
        try:
            events = self._session.receive(level, data, time.time())
            self._data_path.deliver([event for event in events if isinstance(event, SessionTicket | HandshakeFailed)])
        except Exception:  # the same boundary, after the outcome: only tickets are lost
            log.exception("unexpected error in a session ticket for %s", self._request.caller)
            self.takes_tickets = False


def _nothing(_: Outcome) -> None:
    pass


def _outcome(end: End) -> Outcome:
    if isinstance(end, HandshakeFailed):
        return Outcome(status=end.status, alert=end.alert, reason=end.reason, quic_error=end.quic_error)
    return Outcome(
        status=Status.OK,
        reason="",
        alpn=end.alpn,
        server_name=end.server_name,
        registration=end.registration,
        cipher_suite=end.cipher_suite,
        resumed=end.resumed,
        early_data_accepted=end.early_data_accepted,
        peer_certificates=end.peer_certificates,
        peer_keys=end.peer_keys,
        tags=end.tags,
        psk_identity=end.psk_identity,
    )
