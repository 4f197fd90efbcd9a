"""Places are limited in total and for each user with its subordinate uids; root has a reserve."""

from handshaked.control.bus.places import Places
from handshaked.model import Caller


def test_one_user_has_a_limit_and_may_come_again_after_a_release() -> None:
    places = Places(total=100, reserve=10, per_user=3)
    assert [places.take(Caller(5000)) for _ in range(4)] == [True, True, True, False]
    assert places.take(Caller(5001))
    places.release(Caller(5000))
    assert places.take(Caller(5000))


def test_few_users_leave_places_for_others_and_many_the_reserve() -> None:
    places = Places(total=100, reserve=10, per_user=50)
    taken = [places.take(Caller(5000 + number % 4)) for number in range(400)]
    assert sum(taken) < 90
    assert places.take(Caller(4999))
    for number in range(1000):
        places.take(Caller(6000 + number))
    assert [places.take(Caller(0)) for _ in range(10)] == [True] * 10


def test_subordinate_uids_count_as_their_owner() -> None:
    places = Places(total=100, reserve=10, per_user=3)
    assert [places.take(Caller(100_000 + number, owner=5000)) for number in range(4)] == [True, True, True, False]
    assert not places.take(Caller(5000))
