"""Concurrent calls are limited in total and per user; administrators have a reserve."""

import pytest

from handshaked.control.bus.call_limits import MAX_CALLS, MAX_CALLS_PER_USER, RESERVED_CALLS, CallLimits
from handshaked.control.bus.interface import CallError
from handshaked.model import Caller


def test_one_user_has_a_limit_and_may_call_again_after_a_release() -> None:
    limits = CallLimits()
    for _ in range(MAX_CALLS_PER_USER):
        limits.acquire(Caller(5000))
    with pytest.raises(CallError, match="uid 5000 has too many calls in progress"):
        limits.acquire(Caller(5000))
    limits.acquire(Caller(5001))
    limits.release(Caller(5000))
    limits.acquire(Caller(5000))


def test_many_users_leave_the_reserve_to_administrators() -> None:
    limits = CallLimits()
    for number in range(MAX_CALLS - RESERVED_CALLS):
        limits.acquire(Caller(5000 + number))
    with pytest.raises(CallError, match="too many calls in progress"):
        limits.acquire(Caller(4999))
    limits.acquire(Caller(0))
