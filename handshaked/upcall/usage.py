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
    """What one caller uses at the moment: counts, and when what it has sent is paid for at the rates of its limits.

    A second's worth may be owed.
    """

    def __init__(self, limits: Limits) -> None:
        self.connections = 0
        self.handshakes = 0
        self.awaiting_tickets = 0
        self._limits = limits
        self._messages_paid = 0.0
        self._bytes_paid = 0.0

    def take(self, messages: int, size: int, now: float) -> None:
        """Account for a packet."""
        self._messages_paid = max(self._messages_paid, now) + messages / self._limits.messages_per_second
        self._bytes_paid = max(self._bytes_paid, now) + size / self._limits.bytes_per_second

    def debt(self, now: float) -> float:
        """The seconds to wait before the next packet is read, if more than 0."""
        return max(self._messages_paid, self._bytes_paid) - now - 1.0

    def seconds_to_nothing(self, now: float) -> float:
        """The seconds until all is paid for, if more than 0."""
        return max(self._messages_paid, self._bytes_paid) - now
