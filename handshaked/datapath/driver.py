"""One request from accept to outcome: a deadline, a pump, and exactly one report, whatever happens.

Fails closed: an outcome starts as EIO, and only HandshakeComplete, which follows a verified Finished, makes success.
Everything runs on the event loop's thread; a driver is entered again at most by an abort.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from handshaked.errors import Status
from handshaked.events import Event, HandshakeComplete, HandshakeFailed, SessionTicket
from handshaked.model import Level, Outcome, Request
from handshaked.session.registered import Session

log = logging.getLogger(__name__)


class DataPath(Protocol):
    """Where the events of a handshake go."""

    def deliver(self, events: list[Event]) -> None:
        """Carry out `events`, in order; none of them ends the handshake."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """The handshake is over: report `outcome` to the endpoint and let go of everything."""
        ...


Observer = Callable[[Request, Outcome, float], None]
"""Is told each request's outcome and how long it took, in seconds."""


class Attempt:
    """Takes the steps that `request` asks for until its outcome has been reported to `data_path` and `observe`.

    That of a client who asked for session tickets stays open for them for a while after that. `registration` tells
    which one was chosen, as soon as one is.
    """

    def __init__(
        self,
        request: Request,
        data_path: DataPath,
        observe: Observer,
        registration: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._request = request
        self._registration = registration
        self._data_path = data_path
        self._observe = observe
        self._started = time.monotonic()
        self._deadline = asyncio.get_running_loop().call_later(request.timeout, self._expire)
        self._over = False
        self.takes_tickets = False

    @property
    def ticket_seconds(self) -> float:
        """How long a client's endpoint wants session tickets after the handshake."""
        return self._request.ticket_seconds

    @property
    def seconds_left(self) -> float:
        """How long it is to the deadline."""
        return max(0.0, self._started + self._request.timeout - time.monotonic())

    @property
    def finished(self) -> bool:
        """Whether the outcome has been reported."""
        return self._over

    def abort(self, status: int, reason: str) -> None:
        """End the handshake with `status`, unless it is over."""
        self._finish(Outcome(status=status, reason=reason))

    def _expire(self) -> None:
        self.abort(Status.TIMED_OUT, f"no Finished from the peer within {self._request.timeout:g} s")

    def step(self, step: Callable[[float], list[Event]]) -> None:
        """Take one step: `step` is called with the time and gives events, of which the last may end the handshake."""
        if self.finished:
            self._take_tickets(step)
            return
        try:
            events = step(time.time())
            if self._over:  # the step has aborted
                return
            last = events[-1] if events else None
            if isinstance(last, HandshakeComplete | HandshakeFailed):
                self._data_path.deliver(events[:-1])
                self._finish(_outcome(last))
            else:
                self._data_path.deliver(events)
        except Exception:
            log.exception("handshake of %s failed unexpectedly", self._request.caller)
            self._finish(Outcome(reason="internal error; the daemon's log has the details"))

    def _take_tickets(self, step: Callable[[float], list[Event]]) -> None:
        """Whatever goes wrong behind the handshake costs the tickets, not the connection."""
        if not self.takes_tickets:
            return
        try:
            events = step(time.time())
            self._data_path.deliver([event for event in events if isinstance(event, SessionTicket)])
        except Exception:
            log.exception("a session ticket for %s failed unexpectedly", self._request.caller)
            self.takes_tickets = False

    def _finish(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self.takes_tickets = outcome.status == 0 and self._request.ticket_seconds > 0
        self._deadline.cancel()
        try:
            self._data_path.finish(outcome)
        except Exception:  # of the same boundary: an abort comes from a timer or a door, which have others to serve
            log.exception("the outcome of a handshake of %s cannot be reported", self._request.caller)
            outcome = Outcome(reason="the outcome could not be reported")
        # Of a handshake that failed the log shall tell whose it was; the endpoint learns that with success only.
        if outcome.status:
            outcome = replace(outcome, registration=self._registration())
        self._observe(self._request, outcome, time.monotonic() - self._started)


class Driver(Attempt):
    """Runs a `session` that is fed with handshake messages."""

    def __init__(self, request: Request, session: Session, data_path: DataPath, observe: Observer) -> None:
        super().__init__(request, data_path, observe, lambda: session.registration)
        self._session = session

    def start(self) -> None:
        """Begin the handshake."""
        self.step(lambda now: self._session.start(now))

    def receive(self, level: Level, data: bytes) -> None:
        """CRYPTO `data` of `level` came from the peer."""
        self.step(lambda now: self._session.receive(level, data, now))

    def proceed(self, transport_parameters: bytes) -> None:
        """The endpoint's own transport parameters came."""
        self.step(lambda now: self._session.proceed(transport_parameters, now))


def _outcome(event: HandshakeComplete | HandshakeFailed) -> Outcome:
    if isinstance(event, HandshakeFailed):
        return Outcome(status=event.status, alert=event.alert, reason=event.reason)
    return Outcome(
        status=Status.OK,
        reason="",
        alpn=event.alpn,
        server_name=event.server_name,
        registration=event.registration,
        cipher_suite=event.cipher_suite,
        resumed=event.resumed,
        early_data_accepted=event.early_data_accepted,
        peer_certificates=event.peer_certificates,
        peer_keys=event.peer_keys,
        tags=event.tags,
        psk_identity=event.psk_identity,
    )
