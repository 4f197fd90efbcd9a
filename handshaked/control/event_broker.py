"""What happens, as the parent knows it: sums over all workers, the latest handshakes, and who wants to hear of more.

Handshakes come a batch at a time. A subscriber that does not keep up loses records and is told how many.
"""

import fnmatch
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from handshaked.control.requests.permissions import is_administrator
from handshaked.model import Caller
from handshaked.reporting.counts import HandshakeCounts

KEPT = 1000
Event = dict[str, Any]
"""``type`` says what it is: ``handshake``, ``certificate``, ``registrations``, ``worker``."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which handshakes are wanted; None: any. ``server_name`` is a shell pattern."""

    outcome: str | None = None
    registration: str | None = None
    role: str | None = None
    server_name: str | None = None

    def wants(self, record: Event) -> bool:
        """Whether `record` is one of them."""
        return (
            self.outcome in (None, record.get("outcome"))
            and self.registration in (None, record.get("registration"))
            and self.role in (None, record.get("role"))
            and (self.server_name is None or fnmatch.fnmatchcase(record.get("server_name") or "", self.server_name))
        )


class Subscription:
    """Events that `caller` may see, handed to `deliver` a batch at a time; of handshakes those that pass `wanted`, or
    none if that is None.
    """

    def __init__(self, caller: Caller, wanted: Filter | None, deliver: Callable[[list[Event]], None]) -> None:
        self._caller = caller
        self._wanted = wanted
        self._deliver = deliver

    def offer(self, events: Iterable[Event], owners: Callable[[str], int | None]) -> None:
        """Hand on what is wanted of `events`; `owners` tells whose a registration is."""
        chosen = [event for event in events if self._may_see(event, owners) and self._passes(event)]
        if chosen:
            self._deliver(chosen)

    def _passes(self, event: Event) -> bool:
        return event["type"] != "handshake" or (self._wanted is not None and self._wanted.wants(event))

    def _may_see(self, event: Event, owners: Callable[[str], int | None]) -> bool:
        if is_administrator(self._caller) or event.get("caller") == self._caller.uid:
            return True
        registration = event.get("registration")
        return registration is not None and owners(registration) == self._caller.uid


class EventBroker:
    """Gathers and hands out; `owners` tells the owner's uid of the registration of a name."""

    def __init__(self, owners: Callable[[str], int | None]) -> None:
        self.counts = HandshakeCounts()
        self.left_out = 0
        self._owners = owners
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()

    def receive(self, batch: Event) -> None:
        """Take in a worker's batch of outcomes."""
        if "counts" in batch:
            self.counts.merge(batch["counts"])
            self.left_out += batch["left_out"]
        records = [{"type": "handshake", **record} for record in batch["records"]]
        self._recent.extend(records)
        self._offer(records)

    def publish(self, kind: str, **fields: Any) -> None:
        """Tell the subscribers of one event."""
        self._offer([{"type": kind, **fields}])

    def recent(self, caller: Caller, wanted: Filter, limit: int) -> list[Event]:
        """The latest handshakes that `caller` may see and that pass `wanted`, the newest last."""
        found: list[Event] = []
        Subscription(caller, wanted, found.extend).offer(self._recent, self._owners)
        return found[max(len(found) - limit, 0) :]

    def subscribe(self, subscription: Subscription) -> Callable[[], None]:
        """Hand events to `subscription` from now on; call what is returned to end that."""
        self._subscriptions.add(subscription)
        return lambda: self._subscriptions.discard(subscription)

    def _offer(self, events: list[Event]) -> None:
        for subscription in list(self._subscriptions):
            subscription.offer(events, self._owners)
