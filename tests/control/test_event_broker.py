"""Subscribers receive the events that they may see and that match their filter."""

from typing import Any

import pytest

from handshaked.control.event_broker import KEPT, EventBroker, Filter, Subscription, parse_pattern
from handshaked.errors import RefusedError
from handshaked.model import Caller

OWNERS = {"mine": 5000, "other": 5001}


def record(**fields: Any) -> dict[str, Any]:
    """Return a handshake of the owner of the registration `other`."""
    return {"outcome": "ok", "role": "server", "caller": 5001, "registration": "other", "server_name": "a.b", **fields}


def received(caller: Caller, wanted: Filter | None, *records: dict[str, Any]) -> list[Any]:
    """Return the events that a subscriber receives."""
    broker = EventBroker(OWNERS.get)
    events: list[Any] = []
    broker.subscribe(Subscription(caller, wanted, events.extend))
    broker.receive({"records": list(records)})
    return events


def test_root_receives_everything() -> None:
    assert len(received(Caller(0), Filter(), record(), record(registration=None, caller="kernel"))) == 2


def test_users_receive_only_their_own() -> None:
    me = Caller(5000)
    assert received(me, Filter(), record()) == []
    assert len(received(me, Filter(), record(registration="mine"))) == 1
    assert len(received(me, Filter(), record(caller=5000))) == 1
    assert received(me, Filter(), record(registration="no such", caller="kernel")) == []


def test_filters_select_handshakes() -> None:
    root = Caller(0)
    failed = record(outcome="failed")
    assert received(root, Filter(outcome="failed"), record(), failed) == [{"type": "handshake", **failed}]
    assert received(root, Filter(registration="mine"), record()) == []
    assert received(root, Filter(role="client"), record()) == []
    assert len(received(root, Filter(server_name="*.b"), record(), record(server_name=None))) == 1
    assert received(root, None, record()) == []


@pytest.mark.parametrize("pattern", ["*a" * 9, "?" * 9, "[!a]" * 9, "x" * 254])
def test_patterns_that_take_long_to_compile_are_refused(pattern: str) -> None:
    with pytest.raises(RefusedError, match="server name pattern"):
        parse_pattern(pattern)


def test_patterns_of_server_names_are_accepted() -> None:
    for pattern in ("*", "*.example.com", "a?.[bc].*", "x" * 253):
        assert parse_pattern(pattern) == pattern


def test_other_events_pass_every_filter_but_only_to_their_owner() -> None:
    broker = EventBroker(OWNERS.get)
    root: list[Any] = []
    other: list[Any] = []
    end = broker.subscribe(Subscription(Caller(0), None, root.extend))
    broker.subscribe(Subscription(Caller(5000), Filter(), other.extend))
    broker.publish("certificate", registration="other", subject="x", not_after=0.0)
    broker.publish("certificate", registration="mine", subject="x", not_after=0.0)
    assert [event["registration"] for event in root] == ["other", "mine"]
    assert [event["registration"] for event in other] == ["mine"]
    end()
    broker.publish("registrations", generation=1)
    assert len(root) == 2


def test_latest_handshakes_are_kept() -> None:
    broker = EventBroker(OWNERS.get)
    broker.receive({"records": [record(number=number) for number in range(KEPT + 5)]})
    latest = broker.recent(Caller(0), Filter(), 3)
    assert [one["number"] for one in latest] == [KEPT + 2, KEPT + 3, KEPT + 4]
    assert len(broker.recent(Caller(0), Filter(), KEPT + 5)) == KEPT
    assert broker.recent(Caller(5000), Filter(), 3) == []
