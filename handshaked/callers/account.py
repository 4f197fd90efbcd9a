"""Limits on the resources that a caller may use in one process, and an account of its use: one for each uid."""

import asyncio
import os
from dataclasses import dataclass

from handshaked.callers.threads import ThreadPool, Threads
from handshaked.model import Caller


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one caller (uid) in one process; times are in seconds."""

    connections: int = 256
    handshakes: int = 1024
    messages_per_second: int = 20_000
    bytes_per_second: int = 64 * 1024 * 1024
    seconds_per_second: float = 1.0
    """The share of the process's time; within it, callers are served fairly."""
    unsent_bytes: int = 4 * 1024 * 1024
    threads: int = 16
    default_timeout: float = 8.0
    longest_timeout: float = 60.0


class Account:
    """The current use of one caller: counts, and for rate limits the time until which its use is paid for.

    Bursts of up to one second are allowed (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, limits: Limits, now: float, threads: Threads | None = None) -> None:
        self.connections = 0
        self.handshakes = 0
        self.awaiting_tickets = 0
        self.unsent_bytes = 0
        self.threads = threads or Threads(limits.threads)
        self.time_served = 0.0
        """The caller's virtual time, see ``FairQueue``."""
        self._limits = limits
        self._messages_until = self._bytes_until = self._time_until = now - 1.0

    def charge(self, messages: int, size: int, seconds: float, now: float) -> None:
        """Charge `messages` of together `size` bytes, which took `seconds`."""
        limits, earliest = self._limits, now - 1.0
        self._messages_until = max(self._messages_until, earliest) + messages / limits.messages_per_second
        self._bytes_until = max(self._bytes_until, earliest) + size / limits.bytes_per_second
        self._time_until = max(self._time_until, earliest) + seconds / limits.seconds_per_second

    def debt(self, now: float) -> float:
        """Return the seconds to wait before the caller may send more."""
        return max(self._messages_until, self._bytes_until, self._time_until) - now

    def seconds_to_recover(self, now: float) -> float:
        """Return the seconds until nothing of the past use counts."""
        return self.debt(now) + 1.0


class Accounts:
    """The accounts of all callers with connections or recent use: reconnecting does not evade rate limits."""

    def __init__(self, limits: Limits, pool: ThreadPool | None = None) -> None:
        self._limits = limits
        self._pool = pool or ThreadPool()
        self._privileged = {0, os.geteuid()}
        self._loop = asyncio.get_running_loop()
        self._accounts: dict[int, Account] = {}

    def open(self, caller: Caller) -> Account:
        """Return the account of `caller`, for one more connection."""
        account = self._accounts.get(caller.uid)
        if account is None:
            threads = Threads(self._limits.threads, self._pool, privileged=caller.uid in self._privileged)
            account = self._accounts[caller.uid] = Account(self._limits, self._loop.time(), threads)
        account.connections += 1
        return account

    def close(self, caller: Caller) -> None:
        """Count one connection of `caller` less."""
        self._accounts[caller.uid].connections -= 1
        self._forget(caller.uid)

    def _forget(self, uid: int) -> None:
        account = self._accounts.get(uid)
        if account is None or account.connections:
            return
        left = account.seconds_to_recover(self._loop.time())
        if left > 0:
            self._loop.call_later(left, self._forget, uid)
        else:
            del self._accounts[uid]
