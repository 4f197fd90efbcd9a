"""Collect the events of all workers, and deliver them to subscribers: counts, the latest handshakes, other events.

Handshakes arrive in batches. A subscriber that does not keep up loses events, and receives their number.
"""

import fnmatch
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from handshaked.control.requests.permissions import is_administrator
from handshaked.errors import RefusedError
from handshaked.model import Caller
from handshaked.reporting.counts import HandshakeCounts

KEPT = 1000
MAX_PATTERN = 253
MAX_WILDCARDS = 8
Event = dict[str, Any]
"""Its ``type`` is ``handshake``, ``certificate``, ``registrations`` or ``worker``."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on handshakes; None matches any value. ``server_name`` is a shell pattern."""

    outcome: str | None = None
    registration: str | None = None
    role: str | None = None
    server_name: str | None = None

    def matches(self, record: Event) -> bool:
        """Return whether `record` meets all conditions."""
        return (
            self.outcome in (None, record.get("outcome"))
            and self.registration in (None, record.get("registration"))
            and self.role in (None, record.get("role"))
            and (self.server_name is None or fnmatch.fnmatchcase(record.get("server_name") or "", self.server_name))
        )


def parse_pattern(text: str) -> str:
    """Return the shell pattern `text`; RefusedError if it is one that takes long to compile."""
    wildcards = sum(text.count(character) for character in "*?[")
    if len(text) > MAX_PATTERN or wildcards > MAX_WILDCARDS:
        raise RefusedError(
            f"a server name pattern of {len(text)} characters with {wildcards} wildcards: use at most {MAX_PATTERN} and"
            f" {MAX_WILDCARDS}"
        )
    return text


class Subscription:
    """Deliver batches of the events that `caller` may see. Handshakes must match `wanted`; None excludes them all."""

    def __init__(self, caller: Caller, wanted: Filter | None, deliver: Callable[[list[Event]], None]) -> None:
        self._caller = caller
        self._wanted = wanted
        self._deliver = deliver

    def offer(self, events: Iterable[Event], owners: Callable[[str], int | None]) -> None:
        """Deliver the matching `events`; `owners` returns the owner of a registration."""
        chosen = [event for event in events if self._may_see(event, owners) and self._passes(event)]
        if chosen:
            self._deliver(chosen)

    def _passes(self, event: Event) -> bool:
        return event["type"] != "handshake" or (self._wanted is not None and self._wanted.matches(event))

    def _may_see(self, event: Event, owners: Callable[[str], int | None]) -> bool:
        if is_administrator(self._caller) or event.get("caller") == self._caller.uid:
            return True
        registration = event.get("registration")
        return registration is not None and owners(registration) == self._caller.uid


class EventBroker:
    """Count, keep and distribute events. `owners` returns the uid of the owner of a registration.

    ``left_out`` counts the handshakes whose records workers did not report, because there were too many.
    """

    def __init__(self, owners: Callable[[str], int | None]) -> None:
        self.counts = HandshakeCounts()
        self.left_out = 0
        self._owners = owners
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()

    def receive(self, batch: Event) -> None:
        """Add a worker's batch of outcomes."""
        if "counts" in batch:
            self.counts.merge(batch["counts"])
        self.left_out += batch.get("left_out", 0)
        records = [{**record, "type": "handshake"} for record in batch["records"]]
        self._recent.extend(records)
        self._offer(records)

    def publish(self, kind: str, **fields: Any) -> None:
        """Send one event of type `kind` to the subscribers."""
        self._offer([{"type": kind, **fields}])

    def recent(self, caller: Caller, wanted: Filter, limit: int) -> list[Event]:
        """Return the latest handshakes that `caller` may see and that match `wanted`, newest last."""
        found: list[Event] = []
        Subscription(caller, wanted, found.extend).offer(self._recent, self._owners)
        return found[max(len(found) - limit, 0) :]

    def subscribe(self, subscription: Subscription) -> Callable[[], None]:
        """Deliver events to `subscription` from now on; return a function that unsubscribes."""
        self._subscriptions.add(subscription)
        return lambda: self._subscriptions.discard(subscription)

    def _offer(self, events: list[Event]) -> None:
        for subscription in list(self._subscriptions):
            subscription.offer(events, self._owners)
