"""What a caller may take of a process, and what it has taken: one account for each uid, whatever it connects to."""

import asyncio
from dataclasses import dataclass

from handshaked.callers.threads import Threads
from handshaked.model import Caller


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller (uid) may take of one process; times are in seconds."""

    connections: int = 256
    handshakes: int = 1024
    messages_per_second: int = 20_000
    bytes_per_second: int = 64 * 1024 * 1024
    seconds_per_second: float = 1.0
    """The share of the process's time; up to it, callers take turns."""
    unsent_bytes: int = 4 * 1024 * 1024
    threads: int = 16
    default_timeout: float = 8.0
    longest_timeout: float = 60.0


class Account:
    """What one caller uses at the moment: counts, and of what is limited by the second, until when it is paid for.

    A second's worth may be taken at once (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.connections = 0
        self.handshakes = 0
        self.awaiting_tickets = 0
        self.unsent_bytes = 0
        self.threads = Threads(limits.threads)
        self.time_served = 0.0
        """How far its turns have come, see ``Turns``."""
        self._limits = limits
        self._messages_until = self._bytes_until = self._time_until = now - 1.0

    def charge(self, messages: int, size: int, seconds: float, now: float) -> None:
        """Account for so many messages of `size` bytes together, which took `seconds`."""
        limits, earliest = self._limits, now - 1.0
        self._messages_until = max(self._messages_until, earliest) + messages / limits.messages_per_second
        self._bytes_until = max(self._bytes_until, earliest) + size / limits.bytes_per_second
        self._time_until = max(self._time_until, earliest) + seconds / limits.seconds_per_second

    def debt(self, now: float) -> float:
        """The seconds to wait before more is taken in."""
        return max(self._messages_until, self._bytes_until, self._time_until) - now

    def seconds_to_full(self, now: float) -> float:
        """The seconds until nothing is left of what was taken."""
        return self.debt(now) + 1.0


class Accounts:
    """Those of all callers that have connections, or have not paid yet: connecting anew is no way around limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._accounts: dict[int, Account] = {}

    def open(self, caller: Caller) -> Account:
        """The account of `caller`, for one more connection."""
        account = self._accounts.get(caller.uid)
        if account is None:
            account = self._accounts[caller.uid] = Account(self._limits, self._loop.time())
        account.connections += 1
        return account

    def close(self, caller: Caller) -> None:
        """A connection of `caller` is over."""
        self._accounts[caller.uid].connections -= 1
        self._forget(caller.uid)

    def _forget(self, uid: int) -> None:
        account = self._accounts.get(uid)
        if account is None or account.connections:
            return
        left = account.seconds_to_full(self._loop.time())
        if left > 0:
            self._loop.call_later(left, self._forget, uid)
        else:
            del self._accounts[uid]
