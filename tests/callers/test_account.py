"""The account of a caller: rate limits that allow a burst of one second, and reconnecting does not reset."""

import asyncio

import pytest

from handshaked.callers.account import Account, Accounts, Limits, Pools, Totals
from handshaked.model import Caller
from handshaked.wire.attached import MAX_ATTACHED
from tests.patience import soon

LIMITS = Limits(messages_per_second=10, bytes_per_second=1000, seconds_per_second=0.5)


@pytest.mark.parametrize(
    ("messages", "size", "seconds"), [(1, 0, 0.0), (0, 100, 0.0), (0, 0, 0.05)], ids=["messages", "bytes", "seconds"]
)
def test_burst_of_one_second_is_free_and_more_is_owed(messages: int, size: int, seconds: float) -> None:
    account = Account(LIMITS, now=100.0)
    for _ in range(10):
        account.charge(messages, size, seconds, now=100.0)
    assert account.debt(100.0) == pytest.approx(0.0)
    account.charge(messages, size, seconds, now=100.0)
    assert account.debt(100.0) == pytest.approx(0.1)
    assert account.debt(100.1) == pytest.approx(0.0)


def test_idle_time_is_credited_up_to_one_second() -> None:
    account = Account(LIMITS, now=0.0)
    account.charge(20, 0, 0.0, now=0.0)
    assert account.debt(0.0) == pytest.approx(1.0)
    account.charge(10, 0, 0.0, now=1000.0)
    assert account.debt(1000.0) == pytest.approx(0.0)


def test_seconds_to_recover_is_a_second_after_the_debt() -> None:
    account = Account(LIMITS, now=0.0)
    assert account.seconds_to_recover(0.0) == pytest.approx(0.0)
    account.charge(10, 0, 0.0, now=0.0)
    assert account.seconds_to_recover(0.0) == pytest.approx(1.0)


def test_account_survives_reconnecting() -> None:
    async def scenario() -> None:
        accounts = Accounts(LIMITS)
        now = asyncio.get_running_loop().time()
        first = accounts.open(Caller(1))
        first.charge(1000, 0, 0.0, now)
        accounts.close(Caller(1))
        assert accounts.open(Caller(1)) is first
        assert accounts.open(Caller(2)) is not first

    asyncio.run(scenario())


def test_account_without_recent_use_is_forgotten() -> None:
    async def scenario() -> None:
        accounts = Accounts(Limits(messages_per_second=10))
        loop = asyncio.get_running_loop()
        first = accounts.open(Caller(1))
        first.charge(0, 0, 0.0, loop.time() - 10.0)
        accounts.close(Caller(1))
        assert accounts.open(Caller(1)) is not first

    asyncio.run(scenario())


def test_subordinate_uids_share_their_owners_account() -> None:
    async def scenario() -> None:
        accounts = Accounts(LIMITS)
        assert accounts.open(Caller(1)) is accounts.open(Caller(100_001, owner=1))
        assert accounts.open(Caller(100_001)) is not accounts.open(Caller(1))

    asyncio.run(scenario())


def test_accounts_share_what_there_is() -> None:
    async def scenario() -> None:
        accounts = Accounts(Limits(totals=Totals(handshakes=100)))
        quotas = [accounts.open(Caller(uid)).handshakes for uid in (1, 2)]
        for quota in quotas * 20:
            quota.take()
        assert [quota.used for quota in quotas] == [10, 10]
        assert accounts.open(Caller(3)).handshakes.take()

    asyncio.run(scenario())


@pytest.mark.parametrize(("limit", "connections"), [(10**9, 16_384), (65_536, 16_384), (20_000, 5000)])
def test_totals_fit_the_descriptors_of_the_process(limit: int, connections: int) -> None:
    totals = Totals().within(limit)
    assert totals.connections == connections
    assert totals.connections + totals.handshakes + totals.descriptors <= 0.75 * limit


def test_packet_is_read_in_a_process_that_may_open_few_descriptors() -> None:
    limits = Limits(totals=Totals().within(1024))
    pools = Pools(limits.totals)
    assert limits.totals.connections == 256
    others = Account(limits, now=0.0, uid=50_001, pools=pools)
    assert all(others.take_descriptors(1, lambda: None) for _ in range(200))
    assert Account(limits, now=0.0, uid=50_002, pools=pools).take_descriptors(MAX_ATTACHED, lambda: None)


def test_packet_is_read_when_there_is_room_for_its_descriptors() -> None:
    async def scenario() -> None:
        account = Account(Limits(descriptors=300), now=0.0)
        woken: list[int] = []
        assert account.take_descriptors(253, lambda: None)
        assert not account.take_descriptors(253, lambda: woken.append(1))
        assert not account.take_descriptors(253, lambda: woken.append(2))
        account.release_descriptors(203)
        assert woken == [1]
        again = asyncio.Event()
        assert account.take_descriptors(250, lambda: None)
        assert not account.take_descriptors(253, again.set)
        account.release_descriptors(0)
        assert woken == [1]
        await soon(again.wait())  # what others have released is noticed in time, too
        assert woken == [1, 2]

    asyncio.run(scenario())


def test_charged_time_counts_for_the_turn() -> None:
    """Time charged outside the fair queue, such as for connections, delays the caller in the queue."""
    account = Account(Limits(), 0.0)
    account.charge(1, 0, 0.5, 0.0)
    assert account.time_served == 0.5
