"""Counts of handshakes by what they were and how they ended, with a histogram of how long they took.

Workers count, and hand the increments to their parent, which adds them up: numbers survive a worker.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

from handshaked.errors import status_text
from handshaked.model import Outcome, Request

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket holds what is longer."""
MAX_SERIES = 5000
OTHER = "(other)"
"""Stands for all registrations beyond the first MAX_SERIES."""

Handshake = tuple[str, str, str, str]
"""Outcome (``ok`` or why it failed), role, door, registration."""
Kind = tuple[str, str]
"""Role and door."""


@dataclass(slots=True)
class Latency:
    """A histogram: how many fell into each bucket (not cumulative), and the sum in seconds."""

    counts: list[int]
    total: float = 0.0

    def quantile(self, fraction: float) -> float:
        """An upper bound of the `fraction` quantile, interpolated within its bucket; 0 if there is nothing."""
        wanted = fraction * sum(self.counts)
        seen = 0
        for index, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                low = BUCKETS[index - 1] if index else 0.0
                high = BUCKETS[min(index, len(BUCKETS) - 1)]
                return min(high, low + (high - low) * (wanted - seen) / count)  # the sum may be rounded upwards
            seen += count
        return 0.0


class Tally:
    """Counts handshakes."""

    def __init__(self) -> None:
        self.handshakes: Counter[Handshake] = Counter()
        self.latencies: dict[Kind, Latency] = {}

    def add(self, request: Request, outcome: Outcome, seconds: float) -> None:
        """Count one handshake."""
        kind = (request.role.name.lower(), "kernel" if request.caller.kernel else "unix")
        key = (why(outcome), *kind, outcome.registration or "")
        if key not in self.handshakes and len(self.handshakes) >= MAX_SERIES:
            key = (*key[:3], OTHER)
        self.handshakes[key] += 1
        latency = self._latency(kind)
        latency.counts[bisect_left(BUCKETS, seconds)] += 1
        latency.total += seconds

    def merge(self, message: dict[str, Any]) -> None:
        """Add what another tally has ``taken``."""
        for *key, count in message["handshakes"]:
            outcome, role, door, registration = key
            handshake = (outcome, role, door, registration)
            if handshake not in self.handshakes and len(self.handshakes) >= MAX_SERIES:
                handshake = (outcome, role, door, OTHER)
            self.handshakes[handshake] += count
        for role, door, counts, total in message["latencies"]:
            latency = self._latency((role, door))
            latency.counts = [sum(pair) for pair in zip(latency.counts, counts, strict=True)]
            latency.total += total

    def take(self, limit: int) -> dict[str, Any]:
        """Up to `limit` counts and all histograms, as a message; they are zero here afterwards."""
        keys = list(self.handshakes)[:limit]
        taken = {
            "handshakes": [[*key, self.handshakes.pop(key)] for key in keys],
            "latencies": [[*kind, latency.counts, latency.total] for kind, latency in self.latencies.items()],
        }
        self.latencies = {}
        return taken

    def shown(self) -> dict[str, Any]:
        """All of it, as a message."""
        return {
            "handshakes": [[*key, count] for key, count in self.handshakes.items()],
            "latencies": [[*kind, latency.counts, latency.total] for kind, latency in self.latencies.items()],
        }

    @property
    def succeeded(self) -> int:
        """How many ended well."""
        return sum(count for key, count in self.handshakes.items() if key[0] == "ok")

    @property
    def failed(self) -> int:
        """How many did not."""
        return sum(count for key, count in self.handshakes.items() if key[0] != "ok")

    def _latency(self, kind: Kind) -> Latency:
        latency = self.latencies.get(kind)
        if latency is None:
            latency = self.latencies[kind] = Latency([0] * (len(BUCKETS) + 1))
        return latency


def why(outcome: Outcome) -> str:
    """In one word how `outcome` ended: ``ok``, the alert's name, or the errno's symbol."""
    if outcome.status == 0:
        return "ok"
    if outcome.alert is not None:
        return outcome.alert.label
    return status_text(outcome.status).partition(" ")[0]
