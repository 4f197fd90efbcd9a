"""Who is told of what."""

from typing import Any

from handshaked.control.event_broker import KEPT, EventBroker, Filter, Subscription
from handshaked.model import Caller

OWNERS = {"mine": 5000, "other": 5001}


def record(**fields: Any) -> dict[str, Any]:
    """A handshake of the owner of "other"."""
    return {"outcome": "ok", "role": "server", "caller": 5001, "registration": "other", "server_name": "a.b", **fields}


def told(caller: Caller, wanted: Filter | None, *records: dict[str, Any]) -> list[Any]:
    """What a subscriber hears."""
    broker = EventBroker(OWNERS.get)
    events: list[Any] = []
    broker.subscribe(Subscription(caller, wanted, events.extend))
    broker.receive({"records": list(records)})
    return events


def test_root_hears_all() -> None:
    assert len(told(Caller(0), Filter(), record(), record(registration=None, caller="kernel"))) == 2


def test_others_hear_of_what_is_theirs() -> None:
    me = Caller(5000)
    assert told(me, Filter(), record()) == []
    assert len(told(me, Filter(), record(registration="mine"))) == 1
    assert len(told(me, Filter(), record(caller=5000))) == 1
    assert told(me, Filter(), record(registration="no such", caller="kernel")) == []


def test_filters() -> None:
    root = Caller(0)
    failed = record(outcome="failed")
    assert told(root, Filter(outcome="failed"), record(), failed) == [{"type": "handshake", **failed}]
    assert told(root, Filter(registration="mine"), record()) == []
    assert told(root, Filter(role="client"), record()) == []
    assert len(told(root, Filter(server_name="*.b"), record(), record(server_name=None))) == 1
    assert told(root, None, record()) == []


def test_other_events_pass_every_filter_but_not_to_others() -> None:
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


def test_the_latest_are_kept() -> None:
    broker = EventBroker(OWNERS.get)
    broker.receive({"records": [record(number=number) for number in range(KEPT + 5)]})
    latest = broker.recent(Caller(0), Filter(), 3)
    assert [one["number"] for one in latest] == [KEPT + 2, KEPT + 3, KEPT + 4]
    assert len(broker.recent(Caller(0), Filter(), KEPT + 5)) == KEPT
    assert broker.recent(Caller(5000), Filter(), 3) == []
