"""Followers receive all registrations, then the changes, and confirm them; never a key."""

import asyncio
import json
from typing import Any

import pytest

from handshaked.control.registry_feed import PAGE, RegistryFeed
from handshaked.control.requests.arguments import Arguments
from handshaked.errors import RefusedError
from handshaked.model import Caller
from handshaked.registry.names import SELF_TEST_SERVER_NAME
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.json_packets import MAX_MESSAGE

FOLLOWER = Caller(2010)


def registration(identity: int, *server_names: str) -> Registration:
    """Return a registration with a server name of its own."""
    names = server_names or (f"name{identity}.example.com",)
    return Registration(identity, f"number-{identity}", 1000, names, (b"h3",), ())


async def ask(feed: RegistryFeed, caller: Caller = FOLLOWER, **arguments: Any) -> dict[str, Any]:
    """Return the answer to a follower."""
    return await feed.follow(caller, Arguments({"follower": "one", **arguments}))


def named(answer: dict[str, Any]) -> list[str]:
    """Return the names in an answer."""
    return [one["name"] for one in answer["registrations"]]


def test_all_registrations_are_returned_page_by_page() -> None:
    async def scenario() -> None:
        snapshot = Snapshot([registration(number) for number in range(1, PAGE + 11)], 7)
        feed = RegistryFeed(snapshot, frozenset({FOLLOWER.uid}))
        first = await ask(feed)
        assert (len(named(first)), first["more"], first["generation"]) == (PAGE, True, 7)
        second = await ask(feed, after=first["registrations"][-1]["id"])
        assert (len(named(second)), second["more"]) == (10, False)

    asyncio.run(scenario())


def test_publish_waits_until_followers_confirm() -> None:
    async def scenario() -> None:
        old = Snapshot([registration(1), registration(2)], 1)
        feed = RegistryFeed(old, frozenset({FOLLOWER.uid}))
        waiting = asyncio.create_task(ask(feed, generation=1))
        await asyncio.sleep(0)
        new = old.with_changes([registration(3)], [2], 2)
        publishing = asyncio.create_task(feed.publish(new))
        answer = await waiting
        assert (named(answer), answer["removed"], answer["generation"]) == (["number-3"], [2], 2)
        assert not publishing.done()
        confirming = asyncio.create_task(ask(feed, generation=2))
        await publishing
        confirming.cancel()

    asyncio.run(scenario())


def test_late_follower_gets_all_changes_since_its_generation() -> None:
    async def scenario() -> None:
        snapshot = Snapshot([registration(1)], 1)
        feed = RegistryFeed(snapshot, frozenset({FOLLOWER.uid}))
        waiting = asyncio.create_task(ask(feed, generation=1))
        await asyncio.sleep(0)
        first = snapshot.with_changes([registration(2)], [], 2)
        second = first.with_changes([registration(3)], [2], 3)
        await asyncio.gather(feed.publish(first), feed.publish(second), waiting)
        answer = await ask(feed, generation=1)
        assert (named(answer), answer["removed"], answer["generation"]) == (["number-3"], [2], 3)
        assert (await ask(feed, generation=99))["generation"] is None

    asyncio.run(scenario())


def test_publish_waits_for_a_follower_still_reading_pages() -> None:
    async def scenario() -> None:
        snapshot = Snapshot([registration(1)], 1)
        feed = RegistryFeed(snapshot, frozenset({FOLLOWER.uid}))
        await ask(feed)
        publishing = asyncio.create_task(feed.publish(snapshot.with_changes([registration(2)], [], 2)))
        await asyncio.sleep(0)
        assert not publishing.done()
        answer = await ask(feed, generation=1)
        assert (named(answer), answer["generation"]) == (["number-2"], 2)
        confirming = asyncio.create_task(ask(feed, generation=2))
        await publishing
        confirming.cancel()

    asyncio.run(scenario())


def test_long_registrations_are_split_to_fit_into_answers() -> None:
    """Otherwise a user with a grant could stop the demultiplexer from receiving updates."""

    async def scenario() -> None:
        def long(identity: int) -> Registration:
            return registration(identity, *(f"{'x' * 60}.{number}.{'y' * 60}.{identity}.com" for number in range(100)))

        snapshot = Snapshot(map(long, range(1, 101)), 1)
        feed = RegistryFeed(snapshot, frozenset({FOLLOWER.uid}))
        found: list[str] = []
        more, after = True, 0
        while more:
            answer = await ask(feed, after=after)
            assert len(json.dumps(answer)) < MAX_MESSAGE
            found += named(answer)
            more, after = answer["more"], answer["registrations"][-1]["id"]
        assert len(found) == 100
        waiting = asyncio.create_task(ask(feed, generation=1))
        await asyncio.sleep(0)
        publishing = asyncio.create_task(feed.publish(snapshot.with_changes(map(long, range(1, 101)), [], 2)))
        assert (await waiting)["generation"] is None
        publishing.cancel()

    asyncio.run(scenario())


def test_other_users_may_not_follow() -> None:
    async def scenario() -> None:
        await ask(RegistryFeed(Snapshot(), frozenset({FOLLOWER.uid})), Caller(1000))

    with pytest.raises(RefusedError, match="--demux-user"):
        asyncio.run(scenario())


def test_self_test_registration_is_not_published() -> None:
    async def scenario() -> None:
        feed = RegistryFeed(Snapshot([registration(1), registration(2, SELF_TEST_SERVER_NAME)], 1), frozenset({2010}))
        assert named(await ask(feed)) == ["number-1"]

    asyncio.run(scenario())
