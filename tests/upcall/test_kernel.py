"""The kernel source and a fake family that behaves and misbehaves: exactly one DONE for each request."""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from handshaked.datapath.driver import Attempt, End
from handshaked.errors import Alert, Status
from handshaked.events import HandshakeComplete, HandshakeFailed
from handshaked.model import CipherSuite, Outcome, Request, Role
from handshaked.upcall.fake_kernel import FakeFamily, Report, Submission
from handshaked.upcall.kernel import KernelLimits, KernelSource
from handshaked.upcall.kernel_connection import NO_FAMILY

COMPLETE = HandshakeComplete(None, None, CipherSuite.AES_128_GCM_SHA256, resumed=False, peer_keys=(7,), tags=("a",))
FAILED = HandshakeFailed(Alert.UNKNOWN_CA, "nobody knows it", Status.REFUSED)
LIMITS = KernelLimits(answer=0.2, retry=0.05)


class Bench:
    """A source, its family, and the attempts that it opened."""

    def __init__(self, family: FakeFamily, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE) -> None:
        self.family = family
        self.requests: list[Request] = []
        self.attempts: list[Attempt] = []
        self.faults_to_come = 0
        self._end = end
        self._done = asyncio.Condition()
        self._consumers: list[socket.socket] = []
        family.on_done = lambda report: self._changed()
        family.serve_in_loop()
        self.source = KernelSource(family.open_link, {socket.IPPROTO_TCP: self._open}, limits)

    def submit(self, sock: socket.socket | None = None, *, ready: bool = True, timeout: int | None = None) -> None:
        if sock is None:
            sock = socket.socket()
        self._consumers.append(sock)
        self.family.submit(Submission(sock, Role.SERVER, timeout=timeout), ready=ready)

    async def reports(self, count: int) -> list[Report]:
        """Wait for `count` reports; return all."""
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.family.reports) >= count)
        return self.family.reports

    async def until(self, condition: Callable[[], bool]) -> None:
        """Run the event loop until `condition` holds; neither the source nor the family has an event for it."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0)

    async def serving(self, state: str = "serving") -> None:
        await self.until(lambda: self.source.status["state"] == state)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self.until(lambda: not self.source.status["in_flight"])

    async def all_accepted(self) -> None:
        """Wait until the family has answered that nothing is pending any more: the fourth command."""
        await self.until(lambda: self.family.commands_served >= 4)

    async def opened(self, count: int) -> None:
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.attempts) >= count)

    def close(self) -> None:
        self.source.close()
        self.family.close()
        for sock in self._consumers:
            sock.close()

    def _open(self, request: Request, sock: socket.socket, report: Callable[[Outcome], None]) -> Attempt:
        if self.faults_to_come:
            self.faults_to_come -= 1
            raise RuntimeError("on purpose")
        attempt = Attempt(request, report, lambda *_: None)
        self.requests.append(request)
        self.attempts.append(attempt)
        self._changed()
        if self._end is not None:
            end = self._end
            attempt.step(lambda now: end)
        return attempt

    def _changed(self) -> None:
        async def notify() -> None:
            async with self._done:
                self._done.notify_all()

        self._notifying = asyncio.ensure_future(notify())


@asynccontextmanager
async def bench(
    family: FakeFamily | None = None, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE
) -> AsyncIterator[Bench]:
    before = descriptors()
    made = Bench(family or FakeFamily(), limits, end=end)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0)
    assert descriptors() == before, "descriptors are left open"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_requests_pending_at_start_are_accepted() -> None:
    async def scene() -> None:
        family = FakeFamily()
        with socket.socket() as early:
            family.submit(Submission(early, Role.SERVER), ready=False)
            async with bench(family) as made:
                await made.reports(1)
                made.submit()
                made.submit()
                reports = await made.reports(3)
                assert [report.status for report in reports] == [0, 0, 0]
                assert [report.peer_keys for report in reports] == [(7,)] * 3

    asyncio.run(scene())


def test_repeated_ready_is_harmless() -> None:
    async def scene() -> None:
        async with bench() as made:
            for _ in range(20):
                made.family.send_ready()
            made.submit()
            for _ in range(20):
                made.family.send_ready()
            assert len(await made.reports(1)) == 1
            made.submit()
            assert len(await made.reports(2)) == 2
            assert made.source.status["accepted"] == 2

    asyncio.run(scene())


def test_many_requests_at_once_are_answered() -> None:
    async def scene() -> None:
        async with bench() as made:
            for _ in range(100):
                made.submit()
            reports = await made.reports(100)
            assert len(reports) == 100
            await made.idle()
            assert made.source.status["answered"] == 100

    asyncio.run(scene())


def test_failure_is_reported_by_its_errno() -> None:
    async def scene() -> None:
        async with bench(end=FAILED) as made:
            made.submit()
            assert (await made.reports(1))[0].status == Status.REFUSED

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Status.PEER_GONE, Status.TIMED_OUT),
        (Status.NO_KEY, Status.NO_KEY),
        (Status.EXISTS, Status.FAILED),
        (Alert.UNKNOWN_PSK_IDENTITY.errno, Alert.UNKNOWN_PSK_IDENTITY.errno),
    ],
)
def test_consumer_gets_an_errno_that_it_knows(ended: int, told: int) -> None:
    async def scene() -> None:
        async with bench(end=replace(FAILED, status=ended)) as made:
            made.submit()
            assert (await made.reports(1))[0].status == told

    asyncio.run(scene())


def test_consumers_timeout_is_reduced_by_a_margin() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            made.submit(timeout=20)
            assert (await made.reports(1))[0].status == Status.TIMED_OUT
            for timeout in (3000, 10_000, 900_000, None):
                made.submit(timeout=timeout)
            await made.opened(5)
            waits = [request.timeout for request in made.requests]
            assert waits == pytest.approx([0.015, 2.5, 9.5, LIMITS.longest_timeout, LIMITS.server_timeout])

    asyncio.run(scene())


def test_socket_of_an_unsupported_protocol_is_refused() -> None:
    async def scene() -> None:
        async with bench() as made:
            made.submit(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            assert (await made.reports(1))[0].status == Status.UNSUPPORTED

    asyncio.run(scene())


def test_error_in_opening_is_answered_and_the_next_request_accepted() -> None:
    async def scene() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
        async with bench() as made:
            made.faults_to_come = 1
            # There is one READY for both, or none that was heard.
            made.submit(ready=False)
            made.submit()
            assert [report.status for report in await made.reports(2)] == [Status.FAILED, Status.OK]
        assert [type(fault) for fault in faults] == [RuntimeError], "it is in the log"

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [Status.BUSY, Status.BAD_DESCRIPTOR, Status.NO_BUFFERS, Status.FAILED])
def test_refused_accept_is_retried(fault: int) -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.submit(ready=False)
            made.family.faults.extend([fault, fault])
            made.family.send_ready()
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_source_reconnects_to_a_stalled_family() -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.family.faults.append(0)
            made.submit()
            assert (await made.reports(1))[0].status == Status.OK
            assert made.family.links == 2

    asyncio.run(scene())


def test_handshake_survives_a_stalled_family() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            made.submit()
            await made.opened(1)
            await asyncio.sleep(0)
            made.family.faults.append(0)
            made.family.send_ready()
            await made.until(lambda: made.family.links == 2)
            made.attempts[0].step(lambda now: COMPLETE)
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [0, Status.NO_BUFFERS, Status.NOT_FOUND])
def test_lost_done_is_sent_again(fault: int) -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            await made.serving()
            made.submit()
            await made.opened(1)
            await made.all_accepted()
            made.family.faults.append(fault)
            made.attempts[0].step(lambda now: COMPLETE)
            assert [report.status for report in await made.reports(1)] == [Status.OK]
            await made.idle()
            assert made.source.status["answered"] == 1

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [Status.BUSY, Status.BAD_DESCRIPTOR, Status.INVALID])
def test_refused_done_is_not_sent_again(fault: int) -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            await made.serving()
            made.submit()
            await made.opened(1)
            await made.all_accepted()
            made.family.faults.append(fault)
            made.attempts[0].step(lambda now: COMPLETE)
            await made.idle()
            assert not made.family.reports
            assert made.source.status["answers_refused"] == 1

    asyncio.run(scene())


def test_outcome_waits_for_a_removed_family() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            made.submit()
            await made.opened(1)
            made.family.change(None)
            await made.serving("the family was removed")
            made.attempts[0].step(lambda now: COMPLETE)
            assert made.source.status["in_flight"] == 1
            made.family.change(42)
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_outcome_does_not_wait_forever() -> None:
    async def scene() -> None:
        async with bench(limits=replace(LIMITS, undelivered=0.1), end=None) as made:
            made.submit()
            await made.opened(1)
            made.family.change(None)
            await made.serving("the family was removed")
            made.attempts[0].step(lambda now: COMPLETE)
            await made.idle()
            assert not made.family.reports

    asyncio.run(scene())


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 16, b"\x10\0\0\0" + bytes(12), os.urandom(200)],
    ids=["short", "ones", "empty", "random"],
)
def test_source_survives_garbage(garbage: bytes) -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.family.commands.send(garbage)
            made.family.events.send(garbage)
            made.submit()
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_family_may_appear_later_and_return() -> None:
    async def scene() -> None:
        async with bench(FakeFamily(number=None)) as made:
            await made.serving(NO_FAMILY)
            made.family.change(40)
            made.submit()
            await made.reports(1)
            made.family.change(None)
            await made.serving("the family was removed")
            made.family.change(41)
            await made.serving()
            made.submit()
            assert [report.status for report in await made.reports(2)] == [0, 0]

    asyncio.run(scene())


def test_open_request_survives_a_new_family_number() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            made.submit()
            await made.opened(1)
            made.family.change(50)
            made.attempts[0].step(lambda now: COMPLETE)
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


@pytest.mark.parametrize(("takes_tags", "tags"), [(True, ("a",)), (False, ())])
def test_tags_are_sent_only_to_a_kernel_that_accepts_them(takes_tags: bool, tags: tuple[str, ...]) -> None:
    async def scene() -> None:
        async with bench(FakeFamily(takes_tags=takes_tags)) as made:
            await made.serving()
            made.submit()
            await made.reports(1)
            made.submit()
            assert (await made.reports(2))[1].tags == tags

    asyncio.run(scene())


def test_outcome_is_sent_without_tags_if_they_are_refused() -> None:
    async def scene() -> None:
        async with bench(FakeFamily(takes_tags=True), end=None) as made:
            made.submit()
            made.submit()
            await made.opened(2)
            made.family.takes_tags = False
            for attempt in made.attempts:
                attempt.step(lambda now: COMPLETE)
            assert [report.status for report in await made.reports(2)] == [0, 0]

    asyncio.run(scene())


def test_requests_open_at_close_can_be_retried() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            made.submit()
            await made.opened(1)
            made.source.close()
            assert (await made.reports(1))[0].status == Status.TIMED_OUT
            assert made.source.status["in_flight"] == 0

    asyncio.run(scene())


def test_request_accepted_during_close_is_answered() -> None:
    async def scene() -> None:
        async with bench(end=None) as made:
            await made.serving()
            await made.until(lambda: made.family.commands_served == 3)  # nothing was pending
            loop, commands = asyncio.get_running_loop(), made.family.commands
            loop.remove_reader(commands)
            made.submit()
            await made.until(lambda: is_readable(commands))
            made.family.serve()  # at once, as a kernel does
            made.source.close()
            made.family.serve()
            assert [report.status for report in made.family.reports] == [Status.TIMED_OUT]
            loop.add_reader(commands, made.family.serve)

    asyncio.run(scene())


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_stale_link_is_replaced() -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.family.link.stale = True
            await made.until(lambda: made.family.links == 2)
            await made.serving()
            made.submit()
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_requests_beyond_the_limit_wait() -> None:
    async def scene() -> None:
        async with bench(limits=replace(LIMITS, handshakes=2), end=None) as made:
            for _ in range(5):
                made.submit()
            await made.opened(2)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(made.attempts) == 2
            for index in range(5):
                await made.opened(index + 1)
                made.attempts[index].step(lambda now: COMPLETE)
            await made.reports(5)

    asyncio.run(scene())


def test_outcome_reported_twice_is_sent_once() -> None:
    async def scene() -> None:
        async with bench() as made:
            made.submit()
            await made.reports(1)
            made.attempts[0].abort(Status.CANCELED, "once more")
            made.submit()
            assert len(await made.reports(2)) == 2

    asyncio.run(scene())


def test_stopped_source_accepts_nothing() -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.source.stop_accepting()
            for _ in range(20):
                await asyncio.sleep(0)
            made.submit()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not made.family.reports

    asyncio.run(scene())
