"""The kernel's door against a fake of the family that behaves, and misbehaves: one DONE for each request, no more."""

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
from handshaked.upcall.fake_kernel import MemoryFamily, Report, Submission
from handshaked.upcall.kernel import KernelDoor, KernelLimits

COMPLETE = HandshakeComplete(None, None, CipherSuite.AES_128_GCM_SHA256, resumed=False, peer_keys=(7,), tags=("a",))
FAILED = HandshakeFailed(Alert.UNKNOWN_CA, "nobody knows it", Status.REFUSED)
LIMITS = KernelLimits(answer=0.2, retry=0.05)


class Bench:
    """A door, the family behind it, and the attempts that it opened."""

    def __init__(self, family: MemoryFamily, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE) -> None:
        self.family = family
        self.requests: list[Request] = []
        self.attempts: list[Attempt] = []
        self.faults_to_come = 0
        self._end = end
        self._done = asyncio.Condition()
        self._consumers: list[socket.socket] = []
        family.on_done = lambda report: self._changed()
        family.attend()
        self.door = KernelDoor(family.open_link, {socket.IPPROTO_TCP: self._open}, limits)

    def submit(self, sock: socket.socket | None = None, *, ready: bool = True, timeout: int | None = None) -> None:
        if sock is None:
            sock = socket.socket()
        self._consumers.append(sock)
        self.family.submit(Submission(sock, Role.SERVER, timeout=timeout), ready=ready)

    async def reports(self, count: int) -> list[Report]:
        """The reports, as soon as there are so many."""
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.family.reports) >= count)
        return self.family.reports

    async def until(self, condition: Callable[[], bool]) -> None:
        """Give the door and the family their turns until `condition` holds; neither tells of all it does."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0)

    async def serving(self, state: str = "serving") -> None:
        await self.until(lambda: self.door.status["state"] == state)

    async def idle(self) -> None:
        """Until nothing is in flight."""
        await self.until(lambda: not self.door.status["in_flight"])

    async def attended(self) -> None:
        """Until the family has had the request, and said that there is no more: the fourth command."""
        await self.until(lambda: self.family.attended >= 4)

    async def opened(self, count: int) -> None:
        async with asyncio.timeout(20), self._done:
            await self._done.wait_for(lambda: len(self.attempts) >= count)

    def close(self) -> None:
        self.door.close()
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
    family: MemoryFamily | None = None, limits: KernelLimits = LIMITS, *, end: End | None = COMPLETE
) -> AsyncIterator[Bench]:
    before = descriptors()
    made = Bench(family or MemoryFamily(), limits, end=end)
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0)
    assert descriptors() == before, "descriptors are left open"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_requests_from_before_the_start_and_from_after_it() -> None:
    async def scene() -> None:
        family = MemoryFamily()
        with socket.socket() as early:
            family.submit(Submission(early, Role.SERVER), ready=False)
            async with bench(family) as door:
                await door.reports(1)
                door.submit()
                door.submit()
                reports = await door.reports(3)
                assert [report.status for report in reports] == [0, 0, 0]
                assert [report.peer_keys for report in reports] == [(7,)] * 3

    asyncio.run(scene())


def test_ready_again_and_again_costs_nothing_but_questions() -> None:
    async def scene() -> None:
        async with bench() as door:
            for _ in range(20):
                door.family.say_ready()
            door.submit()
            for _ in range(20):
                door.family.say_ready()
            assert len(await door.reports(1)) == 1
            door.submit()
            assert len(await door.reports(2)) == 2
            assert door.door.status["accepted"] == 2

    asyncio.run(scene())


def test_many_at_once() -> None:
    async def scene() -> None:
        async with bench() as door:
            for _ in range(100):
                door.submit()
            reports = await door.reports(100)
            assert len(reports) == 100
            await door.idle()
            assert door.door.status["answered"] == 100

    asyncio.run(scene())


def test_a_failure_is_told_by_its_errno() -> None:
    async def scene() -> None:
        async with bench(end=FAILED) as door:
            door.submit()
            assert (await door.reports(1))[0].status == Status.REFUSED

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
def test_the_consumer_gets_an_errno_it_knows(ended: int, told: int) -> None:
    async def scene() -> None:
        async with bench(end=replace(FAILED, status=ended)) as door:
            door.submit()
            assert (await door.reports(1))[0].status == told

    asyncio.run(scene())


def test_the_consumers_timeout_counts_less_a_margin() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            door.submit(timeout=20)
            assert (await door.reports(1))[0].status == Status.TIMED_OUT
            for timeout in (3000, 10_000, 900_000, None):
                door.submit(timeout=timeout)
            await door.opened(5)
            waits = [request.timeout for request in door.requests]
            assert waits == pytest.approx([0.015, 2.5, 9.5, LIMITS.longest_timeout, LIMITS.server_timeout])

    asyncio.run(scene())


def test_a_protocol_that_nobody_serves() -> None:
    async def scene() -> None:
        async with bench() as door:
            door.submit(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            assert (await door.reports(1))[0].status == Status.UNSUPPORTED

    asyncio.run(scene())


def test_a_fault_in_opening_is_answered_too_and_the_next_request_taken() -> None:
    async def scene() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
        async with bench() as door:
            door.faults_to_come = 1
            # There is one READY for both, or none that was heard.
            door.submit(ready=False)
            door.submit()
            assert [report.status for report in await door.reports(2)] == [Status.FAILED, Status.OK]
        assert [type(fault) for fault in faults] == [RuntimeError], "it is in the log"

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [Status.BUSY, Status.BAD_DESCRIPTOR, Status.NO_BUFFERS, Status.FAILED])
def test_accept_is_refused_and_tried_again(fault: int) -> None:
    async def scene() -> None:
        async with bench() as door:
            await door.serving()
            door.submit(ready=False)
            door.family.faults.extend([fault, fault])
            door.family.say_ready()
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_a_family_that_stalls_is_connected_to_anew() -> None:
    async def scene() -> None:
        async with bench() as door:
            await door.serving()
            door.family.faults.append(0)
            door.submit()
            assert (await door.reports(1))[0].status == Status.OK
            assert door.family.links == 2

    asyncio.run(scene())


def test_a_stalling_family_while_a_handshake_runs() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            door.submit()
            await door.opened(1)
            await asyncio.sleep(0)
            door.family.faults.append(0)
            door.family.say_ready()
            await door.until(lambda: door.family.links == 2)
            door.attempts[0].step(lambda now: COMPLETE)
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [0, Status.NO_BUFFERS, Status.NO_SUCH])
def test_a_done_that_got_lost_is_sent_again(fault: int) -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            await door.serving()
            door.submit()
            await door.opened(1)
            await door.attended()
            door.family.faults.append(fault)
            door.attempts[0].step(lambda now: COMPLETE)
            assert [report.status for report in await door.reports(1)] == [Status.OK]
            await door.idle()
            assert door.door.status["answered"] == 1

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [Status.BUSY, Status.BAD_DESCRIPTOR, Status.INVALID])
def test_a_done_that_is_refused_is_not_sent_again(fault: int) -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            await door.serving()
            door.submit()
            await door.opened(1)
            await door.attended()
            door.family.faults.append(fault)
            door.attempts[0].step(lambda now: COMPLETE)
            await door.idle()
            assert not door.family.reports
            assert door.door.status["answers_refused"] == 1

    asyncio.run(scene())


def test_an_outcome_waits_for_a_family_that_went_away() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            door.submit()
            await door.opened(1)
            door.family.change(None)
            await door.serving("the family went away")
            door.attempts[0].step(lambda now: COMPLETE)
            assert door.door.status["in_flight"] == 1
            door.family.change(42)
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_an_outcome_does_not_wait_for_ever() -> None:
    async def scene() -> None:
        async with bench(limits=replace(LIMITS, undelivered=0.1), end=None) as door:
            door.submit()
            await door.opened(1)
            door.family.change(None)
            await door.serving("the family went away")
            door.attempts[0].step(lambda now: COMPLETE)
            await door.idle()
            assert not door.family.reports

    asyncio.run(scene())


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\xff" * 16, b"\x10\0\0\0" + bytes(12), os.urandom(200)],
    ids=["short", "ones", "empty", "random"],
)
def test_garbage_is_survived(garbage: bytes) -> None:
    async def scene() -> None:
        async with bench() as door:
            await door.serving()
            door.family.commands.send(garbage)
            door.family.events.send(garbage)
            door.submit()
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_the_family_comes_later_goes_and_comes_back() -> None:
    async def scene() -> None:
        async with bench(MemoryFamily(number=None)) as door:
            await door.serving("the kernel has no family handshake yet; it comes with CONFIG_NET_HANDSHAKE (Linux 6.4)")
            door.family.change(40)
            door.submit()
            await door.reports(1)
            door.family.change(None)
            await door.serving("the family went away")
            door.family.change(41)
            await door.serving()
            door.submit()
            assert [report.status for report in await door.reports(2)] == [0, 0]

    asyncio.run(scene())


def test_a_request_that_is_open_while_the_family_changes_its_number() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            door.submit()
            await door.opened(1)
            door.family.change(50)
            door.attempts[0].step(lambda now: COMPLETE)
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


@pytest.mark.parametrize(("takes_tags", "tags"), [(True, ("a",)), (False, ())])
def test_tags_go_only_to_a_kernel_that_takes_them(takes_tags: bool, tags: tuple[str, ...]) -> None:
    async def scene() -> None:
        async with bench(MemoryFamily(takes_tags=takes_tags)) as door:
            await door.serving()
            door.submit()
            await door.reports(1)
            door.submit()
            assert (await door.reports(2))[1].tags == tags

    asyncio.run(scene())


def test_tags_that_are_refused_against_expectation_do_not_cost_the_outcomes() -> None:
    async def scene() -> None:
        async with bench(MemoryFamily(takes_tags=True), end=None) as door:
            door.submit()
            door.submit()
            await door.opened(2)
            door.family.takes_tags = False
            for attempt in door.attempts:
                attempt.step(lambda now: COMPLETE)
            assert [report.status for report in await door.reports(2)] == [0, 0]

    asyncio.run(scene())


def test_what_is_open_when_the_door_closes_can_be_tried_again() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            door.submit()
            await door.opened(1)
            door.door.close()
            assert (await door.reports(1))[0].status == Status.TIMED_OUT
            assert door.door.status["in_flight"] == 0

    asyncio.run(scene())


def test_a_request_whose_accept_is_under_way_when_the_door_closes_is_answered() -> None:
    async def scene() -> None:
        async with bench(end=None) as door:
            await door.serving()
            await door.until(lambda: door.family.attended == 3)  # nothing was pending
            loop, commands = asyncio.get_running_loop(), door.family.commands
            loop.remove_reader(commands)
            door.submit()
            await door.until(lambda: is_readable(commands))
            door.family.serve()  # at once, as a kernel does
            door.door.close()
            door.family.serve()
            assert [report.status for report in door.family.reports] == [Status.TIMED_OUT]
            loop.add_reader(commands, door.family.serve)

    asyncio.run(scene())


def is_readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_a_link_that_is_stale_is_made_anew() -> None:
    async def scene() -> None:
        async with bench() as door:
            await door.serving()
            door.family.link.stale = True
            await door.until(lambda: door.family.links == 2)
            await door.serving()
            door.submit()
            assert (await door.reports(1))[0].status == Status.OK

    asyncio.run(scene())


def test_requests_wait_while_there_are_too_many() -> None:
    async def scene() -> None:
        async with bench(limits=replace(LIMITS, handshakes=2), end=None) as door:
            for _ in range(5):
                door.submit()
            await door.opened(2)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(door.attempts) == 2
            for index in range(5):
                await door.opened(index + 1)
                door.attempts[index].step(lambda now: COMPLETE)
            await door.reports(5)

    asyncio.run(scene())


def test_an_outcome_that_is_reported_twice_is_answered_once() -> None:
    async def scene() -> None:
        async with bench() as door:
            door.submit()
            await door.reports(1)
            door.attempts[0].abort(Status.CANCELED, "once more")
            door.submit()
            assert len(await door.reports(2)) == 2

    asyncio.run(scene())


def test_nothing_is_accepted_any_more_when_the_door_stops() -> None:
    async def scene() -> None:
        async with bench() as door:
            await door.serving()
            door.door.stop_accepting()
            for _ in range(20):
                await asyncio.sleep(0)
            door.submit()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not door.family.reports

    asyncio.run(scene())
