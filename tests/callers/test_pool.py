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


@pytest.mark.parametrize(("users", "each"), [(1, 500), (3, 250), (9, 100), (99, 10)])
def test_greedy_users_leave_as_much_as_each_of_them_has(users: int, each: int) -> None:
    pool = Pool(1000)
    assert [quota.used for quota in greedy(pool, *USERS[:users])] == [each] * users
    assert greedy(pool, USERS[-1])[0].used == each // 2


def test_one_unit_is_left_for_a_new_user_while_there_is_room() -> None:
    pool = Pool(100)
    greedy(pool, *USERS[:50])
    assert Quota(pool, USERS[-1], 10).take()


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
    pool = Pool(100)
    one, other = Quota(pool, USERS[0], 60), Quota(pool, USERS[1], 60)
    one.add(50)
    assert [one.exceeded, other.exceeded] == [False, False]
    other.add(1)
    assert [one.exceeded, other.exceeded] == [True, False]
    other.release(1)
    assert [one.exceeded, other.exceeded] == [False, False]
    one.add(11)
    assert [one.exceeded, other.exceeded] == [True, False]
