"""Subscribers are limited for each user and in total; administrators have a reserve, gone ones take no place."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from handshaked.control.bus.subscribers import (
    MAX_SUBSCRIBERS,
    MAX_SUBSCRIBERS_PER_USER,
    BusSubscribers,
)
from handshaked.control.event_broker import EventBroker, Filter
from handshaked.errors import RefusedError
from handshaked.model import Caller

ANY = Filter()


def with_subscribers(check: Callable[[BusSubscribers], None]) -> None:
    async def scenario() -> None:
        check(BusSubscribers(EventBroker(lambda name: None), lambda *_: None))

    asyncio.run(scenario())


def test_one_user_has_a_limit_and_can_subscribe_again_after_leaving() -> None:
    def check(subscribers: BusSubscribers) -> None:
        for number in range(MAX_SUBSCRIBERS_PER_USER):
            subscribers.add(f":1.{number}", Caller(5000), ANY)
        with pytest.raises(RefusedError, match="uid 5000 has too many subscribers"):
            subscribers.add(":1.99", Caller(5000), ANY)
        subscribers.add(":1.0", Caller(5000), Filter(outcome="failed"))  # replaces its filter
        subscribers.add(":2.0", Caller(5001), ANY)
        subscribers.remove(":1.3")
        subscribers.add(":1.99", Caller(5000), ANY)

    with_subscribers(check)


def test_many_users_leave_the_reserve_to_administrators() -> None:
    def check(subscribers: BusSubscribers) -> None:
        for number in range(MAX_SUBSCRIBERS):
            with suppress(RefusedError):
                subscribers.add(f":1.{number}", Caller(5000 + number % 5), ANY)
        with pytest.raises(RefusedError, match="too many subscribers"):
            subscribers.add(":1.99", Caller(5000), ANY)
        subscribers.add(":1.98", Caller(4999), ANY)
        for number in range(MAX_SUBSCRIBERS_PER_USER):
            subscribers.add(f":0.{number}", Caller(0), ANY)
        subscribers.clear()
        subscribers.add(":1.99", Caller(4999), ANY)

    with_subscribers(check)
