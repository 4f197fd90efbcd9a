"""A resource that callers share: nobody can use it up."""

import os

import pytest

from handshaked.callers.pool import Pool, Quota

USERS = range(20_001, 20_101)


def greedy(pool: Pool, *uids: int, limit: int = 10**6) -> list[Quota]:
    """Take for `uids`, one unit each in turn, until none of them gets more."""
    quotas = [Quota(pool, uid, limit) for uid in uids]
    takes = True
    while takes:
        takes = False
        for quota in quotas:
            takes |= quota.take()
    return quotas


@pytest.mark.parametrize(("users", "each"), [(1, 112), (2, 100), (12, 50), (92, 10)])
def test_greedy_users_leave_eight_times_what_each_of_them_has(users: int, each: int) -> None:
    pool = Pool(1000)
    assert [quota.used for quota in greedy(pool, *USERS[:users])] == [each] * users
    assert greedy(pool, USERS[-1])[0].used == pytest.approx((1000 - users * each) / 9, abs=1)


def test_users_that_are_greedy_one_after_the_other_leave_some() -> None:
    pool = Pool(1000)
    for uid in USERS[:20]:
        greedy(pool, uid)
    assert 80 < 1000 - pool.used < 120
    while pool.used < 1000:
        assert Quota(pool, USERS[-1], 10).take()
    assert not Quota(pool, USERS[-1], 10).take()


def test_quota_is_limited() -> None:
    (quota,) = greedy(Pool(1000), USERS[0], limit=7)
    assert quota.used == 7
    assert not quota.take(2)
    quota.release(2)
    assert quota.take(2)


@pytest.mark.parametrize("uid", [0, os.geteuid(), 4242])
def test_reserve_is_for_privileged_users(uid: int) -> None:
    pool = Pool(100, reserve=20, privileged=(4242,))
    greedy(pool, *USERS)
    assert pool.used == 80
    assert greedy(pool, uid)[0].used == 20


def test_amount_beyond_the_limits_is_noticed() -> None:
    pool = Pool(900)
    one, other = Quota(pool, USERS[0], 110), Quota(pool, USERS[1], 110)
    one.add(100)
    assert [one.exceeded, other.exceeded] == [False, False]
    other.add(8)
    assert [one.exceeded, other.exceeded] == [True, False]
    other.release(8)
    assert [one.exceeded, other.exceeded] == [False, False]
    one.add(12)
    assert [one.exceeded, other.exceeded] == [True, False]
