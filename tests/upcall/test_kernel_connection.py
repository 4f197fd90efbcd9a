"""The connection to the kernel's family: it is lost, resolved again, and probed for tags."""

import asyncio
import os
from dataclasses import replace

import pytest

from handshaked.errors import Status
from handshaked.upcall.fake_kernel import FakeFamily
from handshaked.upcall.kernel_connection import NO_FAMILY
from tests.upcall.kernel_bench import COMPLETE, LIMITS, bench


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
