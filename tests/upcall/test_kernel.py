"""The kernel source and a fake family that behaves and misbehaves: exactly one DONE for each request."""

import asyncio
import select
import socket
from dataclasses import replace

import pytest

from handshaked.errors import Alert, Status
from handshaked.model import Role
from handshaked.upcall.fake_kernel import FakeFamily, Submission
from tests.upcall.kernel_bench import COMPLETE, FAILED, LIMITS, bench


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
    ("status", "reported"),
    [
        (Status.PEER_GONE, Status.TIMED_OUT),
        (Status.NO_KEY, Status.NO_KEY),
        (Status.EXISTS, Status.FAILED),
        (Alert.UNKNOWN_PSK_IDENTITY.errno, Alert.UNKNOWN_PSK_IDENTITY.errno),
    ],
)
def test_consumer_gets_an_errno_that_it_knows(status: int, reported: int) -> None:
    async def scene() -> None:
        async with bench(end=replace(FAILED, status=status)) as made:
            made.submit()
            assert (await made.reports(1))[0].status == reported

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


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (Status.NOT_PERMITTED, "ACCEPT failed: EPERM (Operation not permitted); CAP_NET_ADMIN is missing"),
        (Status.REFUSED, "run the service as root (systemctl edit handshaked.service: User=root, Group=root)"),
    ],
)
def test_missing_right_is_said_once_with_the_remedy(caplog: pytest.LogCaptureFixture, fault: int, remedy: str) -> None:
    async def scene() -> None:
        async with bench() as made:
            await made.serving()
            made.submit(ready=False)
            made.family.faults.extend([fault] * 3)
            made.family.send_ready()
            assert (await made.reports(1))[0].status == Status.OK

    asyncio.run(scene())
    said = [record.getMessage() for record in caplog.records if "ACCEPT" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith(remedy)


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
