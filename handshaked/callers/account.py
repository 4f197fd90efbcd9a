"""Limits on the resources that callers may use in one process, and an account of each caller's use.

A caller is a user with all of its subordinate uids (``owners``).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from handshaked.callers.pool import Pool, Quota
from handshaked.callers.threads import ThreadPool, Threads
from handshaked.model import Caller
from handshaked.wire.attached import MAX_ATTACHED

_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Totals:
    """Limits for all callers together, in one process, which ``Pool`` shares among them.

    The defaults are for a process that may open 65,536 descriptors: three quarters of them at most, if all handshakes
    are on QUIC sockets.
    """

    connections: int = 16_384
    handshakes: int = 8192
    kept_bytes: int = 192 * 1024 * 1024
    unsent_bytes: int = 64 * 1024 * 1024
    descriptors: int = 24_576

    def within(self, descriptors: int) -> "Totals":
        """Return these limits, reduced for a process that may open that many descriptors only.

        An ordinary user always finds room for the descriptors of a packet: without it, nothing is read.
        """
        share = min(1.0, descriptors / 65_536)
        return replace(
            self,
            connections=int(self.connections * share),
            handshakes=int(self.handshakes * share),
            descriptors=max(int(self.descriptors * share), 16 * MAX_ATTACHED),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one caller in one process; times are in seconds."""

    connections: int = 256
    handshakes: int = 1024
    messages_per_second: int = 20_000
    bytes_per_second: int = 64 * 1024 * 1024
    seconds_per_second: float = 1.0
    """The share of the process's time; within it, callers are served fairly."""
    kept_bytes: int = 32 * 1024 * 1024
    """Bytes that handshakes in flight keep: of requests, and of CRYPTO data received."""
    unsent_bytes: int = 4 * 1024 * 1024
    descriptors: int = 4096
    """Attached descriptors that are not closed yet."""
    threads: int = 16
    default_timeout: float = 8.0
    longest_timeout: float = 60.0
    totals: Totals = field(default=Totals())


class Pools:
    """The pools that all callers of one process share."""

    def __init__(self, totals: Totals) -> None:
        self.handshakes = Pool(totals.handshakes)
        self.kept_bytes = Pool(totals.kept_bytes)
        self.unsent_bytes = Pool(totals.unsent_bytes)
        self.descriptors = Pool(totals.descriptors)


class Account:
    """The current use of one caller: counts, and for rate limits the time until which its use is paid for.

    Bursts of up to one second are allowed (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(
        self, limits: Limits, now: float, threads: Threads | None = None, uid: int = 0, pools: Pools | None = None
    ) -> None:
        pools = pools or Pools(limits.totals)
        self.connections = 0
        self.handshakes = Quota(pools.handshakes, uid, limits.handshakes)
        self.awaiting_tickets = 0
        self.kept_bytes = Quota(pools.kept_bytes, uid, limits.kept_bytes)
        self.unsent_bytes = Quota(pools.unsent_bytes, uid, limits.unsent_bytes)
        self._descriptors = Quota(pools.descriptors, uid, limits.descriptors)
        self._waiting: deque[Callable[[], object]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self.threads = threads or Threads(limits.threads)
        self.time_served = 0.0
        """The caller's virtual time, see ``FairQueue``."""
        self._limits = limits
        self._messages_until = self._bytes_until = self._time_until = now - 1.0

    def charge(self, messages: int, size: int, seconds: float, now: float) -> None:
        """Charge `messages` of together `size` bytes, which took `seconds`."""
        self.time_served += seconds
        limits, earliest = self._limits, now - 1.0
        self._messages_until = max(self._messages_until, earliest) + messages / limits.messages_per_second
        self._bytes_until = max(self._bytes_until, earliest) + size / limits.bytes_per_second
        self._time_until = max(self._time_until, earliest) + seconds / limits.seconds_per_second

    def debt(self, now: float) -> float:
        """Return the seconds to wait before the caller may send more."""
        return max(self._messages_until, self._bytes_until, self._time_until) - now

    def take_descriptors(self, most: int, then: Callable[[], object]) -> bool:
        """Take `most` descriptors, which a packet to be read may have; if there is no room, call `then` later."""
        if self._descriptors.take(most):
            return True
        self._waiting.append(then)
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake_again)
        return False

    def release_descriptors(self, count: int) -> None:
        """Give `count` descriptors back, and let a waiting connection try again."""
        self._descriptors.release(count)
        if count and self._waiting:
            self._waiting.popleft()()

    def _wake_again(self) -> None:
        self._retry = None
        if self._waiting:
            self._waiting.popleft()()
        if self._waiting:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake_again)

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
        self._pools = Pools(limits.totals)
        self._accounts: dict[int, Account] = {}

    def open(self, caller: Caller) -> Account:
        """Return the account of `caller`, for one more connection."""
        uid = caller.account
        account = self._accounts.get(uid)
        if account is None:
            threads = Threads(self._limits.threads, self._pool, privileged=uid in self._privileged)
            account = self._accounts[uid] = Account(self._limits, self._loop.time(), threads, uid, self._pools)
        account.connections += 1
        return account

    def close(self, caller: Caller) -> None:
        """Count one connection of `caller` less."""
        self._accounts[caller.account].connections -= 1
        self._forget(caller.account)

    def _forget(self, uid: int) -> None:
        account = self._accounts.get(uid)
        if account is None or account.connections:
            return
        left = account.seconds_to_recover(self._loop.time())
        if left > 0:
            self._loop.call_later(left, self._forget, uid)
        else:
            del self._accounts[uid]
