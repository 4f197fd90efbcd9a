"""Each request has exactly one outcome, with scripted sessions and injected errors on a real event loop."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from handshaked.datapath.driver import Driver
from handshaked.errors import Alert, QuicError, Status
from handshaked.events import CryptoData, Event, HandshakeComplete, HandshakeFailed, SessionTicket
from handshaked.model import Caller, CipherSuite, Level, Outcome, Request, Role
from handshaked.session.registered import Session
from tests.patience import soon

COMPLETE = HandshakeComplete(b"h3", "a.example.com", CipherSuite.AES_128_GCM_SHA256, resumed=False, registration="web")
FAILED = HandshakeFailed(Alert.UNRECOGNIZED_NAME, "unknown name", Status.REFUSED, Alert.UNRECOGNIZED_NAME.quic_error)
DATA = CryptoData(Level.HANDSHAKE, b"data")
TICKET = SessionTicket(b"state", expires=1.0)


class Scripted(Session):
    """A session that returns the events of the test, or raises its exceptions."""

    def __init__(self, *steps: list[Event] | Exception) -> None:
        super().__init__()
        self.steps = list(steps)

    def start(self, now: float) -> list[Event]:
        return self.next()

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        return self.next()

    def proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        return self.next()

    def next(self) -> list[Event]:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@dataclass
class Recorder:
    """A data path and observer that record their calls; one of them may fail."""

    fails_in: str = ""
    delivered: list[Event] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    observed: list[Outcome] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def deliver(self, events: list[Event]) -> None:
        if self.fails_in == "deliver":
            raise RuntimeError("no way")
        self.delivered += events

    def finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.fails_in == "finish":
            raise RuntimeError("no way")

    def observe(self, request: Request, outcome: Outcome, seconds: float) -> None:
        assert seconds >= 0
        self.observed.append(outcome)
        self.over.set()


def drive(
    session: Session,
    act: Callable[[Driver, Recorder], Awaitable[None]],
    *,
    timeout: float = 8,
    fails_in: str = "",
    ticket_seconds: float = 0.0,
) -> Recorder:
    """Run `act` on a driver of `session`; return the recorder."""

    async def run() -> Recorder:
        recorder = Recorder(fails_in)
        request = Request(Role.CLIENT, Caller(uid=1), timeout, ticket_seconds=ticket_seconds)
        await act(Driver(request, session, recorder, recorder.observe), recorder)
        return recorder

    return asyncio.run(run())


def test_complete_handshake_delivers_events_before_success() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.receive(Level.INITIAL, b"hello")
        assert recorder.outcomes == []
        driver.receive(Level.HANDSHAKE, b"finished")

    recorder = drive(Scripted([], [DATA], [DATA, COMPLETE]), act)
    assert recorder.delivered == [DATA, DATA]
    (outcome,) = recorder.outcomes
    assert (outcome.status, outcome.alert, outcome.alpn, outcome.registration) == (Status.OK, None, b"h3", "web")
    assert recorder.observed == recorder.outcomes


def test_failed_handshake_reports_alert_and_reason() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()

    (outcome,) = drive(Scripted([DATA, FAILED]), act).outcomes
    assert (outcome.status, outcome.alert, outcome.reason) == (FAILED.status, FAILED.alert, FAILED.reason)
    assert outcome.quic_error == FAILED.quic_error


def test_outcome_starts_as_a_failure() -> None:
    assert Outcome().status == Status.FAILED != Status.OK


def test_nothing_happens_after_the_outcome() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.receive(Level.INITIAL, b"more")
        driver.proceed(b"")
        driver.abort(Status.CANCELED, "too late")
        driver.start()

    recorder = drive(Scripted([COMPLETE], [DATA]), act)
    assert [outcome.status for outcome in recorder.outcomes] == [Status.OK]
    assert len(recorder.observed) == 1
    assert recorder.delivered == []


@pytest.mark.parametrize("step", ["start", "receive", "proceed"])
def test_unexpected_error_is_one_failed_outcome_without_details(step: str) -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        if step == "start":
            driver.start()
        elif step == "receive":
            driver.receive(Level.INITIAL, b"")
        else:
            driver.proceed(b"")

    recorder = drive(Scripted(ZeroDivisionError("secret 123")), act)
    (outcome,) = recorder.outcomes
    assert (outcome.status, outcome.alert) == (Status.FAILED, None)
    assert "secret" not in outcome.reason
    assert recorder.observed == [outcome]


def test_success_that_cannot_be_delivered_is_a_failure() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()

    recorder = drive(Scripted([DATA, COMPLETE]), act, fails_in="deliver")
    assert [outcome.status for outcome in recorder.outcomes] == [Status.FAILED]


@pytest.mark.parametrize("step", [[COMPLETE], [FAILED], ZeroDivisionError(), []])
def test_failed_report_is_not_repeated_and_does_not_propagate(step: list[Event] | Exception) -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.abort(Status.CANCELED, "closed")
        driver.abort(Status.CANCELED, "closed")

    recorder = drive(Scripted(step), act, fails_in="finish")
    assert len(recorder.outcomes) == 1
    assert [outcome.status for outcome in recorder.observed] == [Status.FAILED]


def test_abort_reports_its_status() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.abort(Status.SHUTTING_DOWN, "the daemon is shutting down")
        assert driver.finished

    (outcome,) = drive(Scripted([DATA]), act).outcomes
    assert (outcome.status, outcome.reason) == (Status.SHUTTING_DOWN, "the daemon is shutting down")


def test_deadline_ends_a_busy_handshake() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        loop = asyncio.get_running_loop()

        def keep_busy() -> None:
            driver.receive(Level.INITIAL, b"byte")
            if not driver.finished:
                loop.call_soon(keep_busy)

        keep_busy()
        await soon(recorder.over.wait())

    recorder = drive(Scripted(*([] for _ in range(1_000_000))), act, timeout=0.05)
    (outcome,) = recorder.outcomes
    assert outcome.status == Status.TIMED_OUT
    assert outcome.reason == "no Finished from the peer within 0.05 s"


def test_finished_handshake_has_no_deadline() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, late.set)
        await soon(late.wait())

    recorder = drive(Scripted([COMPLETE]), act, timeout=0.01)
    assert [outcome.status for outcome in recorder.outcomes] == [Status.OK]


# After the handshake.


def test_only_requested_session_tickets_are_delivered_after_the_outcome() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.receive(Level.APPLICATION, b"ticket")
        assert driver.takes_tickets

    recorder = drive(Scripted([COMPLETE], [DATA, TICKET, COMPLETE]), act, ticket_seconds=1)
    assert recorder.delivered == [TICKET]
    assert [outcome.status for outcome in recorder.outcomes] == [Status.OK]


def test_violation_after_the_outcome_is_delivered() -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        driver.receive(Level.APPLICATION, b"ticket")

    violation = HandshakeFailed(Alert.ILLEGAL_PARAMETER, "bad ticket", Status.REFUSED, QuicError.PROTOCOL_VIOLATION)
    recorder = drive(Scripted([COMPLETE], [TICKET, violation]), act, ticket_seconds=1)
    assert recorder.delivered == [TICKET, violation]
    assert [outcome.status for outcome in recorder.outcomes] == [Status.OK]


@pytest.mark.parametrize("fault", ["session", "deliver"])
def test_error_in_a_session_ticket_loses_only_tickets(fault: str) -> None:
    async def act(driver: Driver, recorder: Recorder) -> None:
        driver.start()
        recorder.fails_in = fault
        driver.receive(Level.APPLICATION, b"ticket")
        driver.receive(Level.APPLICATION, b"another")
        assert not driver.takes_tickets

    second = ZeroDivisionError() if fault == "session" else [TICKET]
    recorder = drive(Scripted([COMPLETE], second), act, ticket_seconds=1)
    assert recorder.delivered == []
    assert [outcome.status for outcome in recorder.outcomes] == [Status.OK]


def test_ended_handshake_is_freed_at_once() -> None:
    """A cycle would keep it, and the bytes that it holds, until the collector looks at its generation."""

    async def scenario() -> None:
        recorder = Recorder()
        request = Request(Role.CLIENT, Caller(uid=1), timeout=8)
        driver = Driver(request, Scripted([COMPLETE]), recorder, recorder.observe)
        driver.start()
        assert recorder.observed[0].status == Status.OK
        known = weakref.ref(driver)
        del driver
        assert known() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
