"""Counters of finished handshakes by outcome, role, source and registration, with histograms of their duration.

Workers send increments to their parent, which adds them up: the counts survive a worker.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

from handshaked.errors import status_text
from handshaked.model import Outcome, Request

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket holds everything longer."""
MAX_SERIES = 5000
OTHER = "(other)"
"""Stands for all registrations beyond the first MAX_SERIES."""

Handshake = tuple[str, str, str, str]
"""Outcome (``ok`` or the cause of the failure), role, source (``kernel`` or ``unix``), registration."""
Kind = tuple[str, str]
"""Role and source."""


@dataclass(slots=True)
class Latency:
    """A histogram: the count of each bucket (not cumulative), and the sum in seconds."""

    counts: list[int]
    total: float = 0.0

    def quantile(self, fraction: float) -> float:
        """Return an upper bound of the `fraction` quantile, interpolated within its bucket; 0 if it is empty."""
        wanted = fraction * sum(self.counts)
        seen = 0
        for index, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                low = BUCKETS[index - 1] if index else 0.0
                high = BUCKETS[min(index, len(BUCKETS) - 1)]
                return min(high, low + (high - low) * (wanted - seen) / count)  # the sum may be rounded up
            seen += count
        return 0.0


class HandshakeCounts:
    """Counters of handshakes, and a histogram for each role and source."""

    def __init__(self) -> None:
        self.handshakes: Counter[Handshake] = Counter()
        self.latencies: dict[Kind, Latency] = {}

    def add(self, request: Request, outcome: Outcome, seconds: float) -> None:
        """Count one handshake."""
        kind = (request.role.name.lower(), "kernel" if request.caller.kernel else "unix")
        key = (summary(outcome), *kind, outcome.registration or "")
        if key not in self.handshakes and len(self.handshakes) >= MAX_SERIES:
            key = (*key[:3], OTHER)
        self.handshakes[key] += 1
        latency = self._latency(kind)
        latency.counts[bisect_left(BUCKETS, seconds)] += 1
        latency.total += seconds

    def merge(self, message: dict[str, Any]) -> None:
        """Add the counts in `message`, made by ``take`` or ``shown``."""
        for *key, count in message["handshakes"]:
            outcome, role, source, registration = key
            handshake = (outcome, role, source, registration)
            if handshake not in self.handshakes and len(self.handshakes) >= MAX_SERIES:
                handshake = (outcome, role, source, OTHER)
            self.handshakes[handshake] += count
        for role, source, counts, total in message["latencies"]:
            latency = self._latency((role, source))
            latency.counts = [sum(pair) for pair in zip(latency.counts, counts, strict=True)]
            latency.total += total

    def take(self, limit: int) -> dict[str, Any]:
        """Return up to `limit` counts and all histograms as a message, and reset them here."""
        keys = list(self.handshakes)[:limit]
        taken = {
            "handshakes": [[*key, self.handshakes.pop(key)] for key in keys],
            "latencies": [[*kind, latency.counts, latency.total] for kind, latency in self.latencies.items()],
        }
        self.latencies = {}
        return taken

    def shown(self) -> dict[str, Any]:
        """Return all counts and histograms as a message."""
        return {
            "handshakes": [[*key, count] for key, count in self.handshakes.items()],
            "latencies": [[*kind, latency.counts, latency.total] for kind, latency in self.latencies.items()],
        }

    @property
    def succeeded(self) -> int:
        """The number of successful handshakes."""
        return sum(count for key, count in self.handshakes.items() if key[0] == "ok")

    @property
    def failed(self) -> int:
        """The number of failed handshakes."""
        return sum(count for key, count in self.handshakes.items() if key[0] != "ok")

    def _latency(self, kind: Kind) -> Latency:
        latency = self.latencies.get(kind)
        if latency is None:
            latency = self.latencies[kind] = Latency([0] * (len(BUCKETS) + 1))
        return latency


def summary(outcome: Outcome) -> str:
    """Return a one-word summary of `outcome`: ``ok``, the alert's name, or the errno's symbol."""
    if outcome.status == 0:
        return "ok"
    if outcome.alert is not None:
        return outcome.alert.label
    return status_text(outcome.status).partition(" ")[0]
