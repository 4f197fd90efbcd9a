"""What a caller of the Unix door may use, and what it uses at the moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller (uid) may take of one worker; times are in seconds."""

    connections: int = 256
    handshakes: int = 1024
    messages_per_second: int = 20_000
    bytes_per_second: int = 64 * 1024 * 1024
    unsent_bytes: int = 4 * 1024 * 1024
    default_timeout: float = 8.0
    longest_timeout: float = 60.0


class Usage:
    """What one caller uses at the moment: counts, and two token buckets that hold a second's worth."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.connections = 0
        self.handshakes = 0
        self.awaiting_tickets = 0
        self._rates = (limits.messages_per_second, limits.bytes_per_second)
        self._tokens = [float(rate) for rate in self._rates]
        self._filled = now

    def take(self, messages: int, size: int, now: float) -> None:
        """Account for a packet."""
        self._fill(now)
        self._tokens[0] -= messages
        self._tokens[1] -= size

    def debt(self, now: float) -> float:
        """The seconds to wait before the next packet is read."""
        self._fill(now)
        return max(-tokens / rate for tokens, rate in zip(self._tokens, self._rates, strict=True))

    def seconds_to_full(self, now: float) -> float:
        """The seconds until nothing is left of what was taken."""
        self._fill(now)
        return max(1 - tokens / rate for tokens, rate in zip(self._tokens, self._rates, strict=True))

    def _fill(self, now: float) -> None:
        elapsed, self._filled = now - self._filled, now
        for index, rate in enumerate(self._rates):
            self._tokens[index] = min(rate, self._tokens[index] + rate * elapsed)
