"""Accepts connections of local users, within a limit for each user and a limit for all."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from handshaked.callers.closing import Closer
from handshaked.callers.identity import caller_of
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.pool import Pool, Quota
from handshaked.model import Caller

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_UNKNOWN = "unknown"  # the user of connections whose caller the kernel could not name
_BATCH_SECONDS = 0.0003  # the longest time of accepting before other events


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Limits on the number of connections, which ``Pool`` shares among the users."""

    total: int
    per_user: int
    reserve: int
    """The part of ``total`` that is reserved for root, the daemon's own user and other privileged ones."""


class Acceptor:
    """Accepts on `listener`, called `name` in the log, and passes each connection, non-blocking, to `take`.

    `privileged` are uids that get connections of the reserve, like root and the daemon's own user. The owner of a
    connection must call ``release`` when the connection and everything it started has ended.
    """

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        bounds: ConnectionBounds,
        log_limit: LogLimit,
        closer: Closer,
        take: Callable[[socket.socket, Caller], object],
        privileged: Iterable[int] = (),
    ) -> None:
        self._listener = listener
        self._name = name
        self._per_user = bounds.per_user
        self._log_limit = log_limit
        self._closer = closer
        self._take = take
        self._pool = Pool(bounds.total, bounds.reserve, privileged)
        self._connections: dict[int, Quota] = {}
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._failing = False
        listener.setblocking(False)

    def start(self) -> None:
        """Start accepting."""
        self._retry = None
        try:
            self._loop.add_reader(self._listener, self._accept)
        except OSError as error:
            self._pause(error)

    def stop(self) -> None:
        """Stop accepting; accepted connections continue."""
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def release(self, caller: Caller) -> None:
        """Count one connection of `caller` less."""
        held = self._connections[caller.account]
        held.release()
        if not held.used:
            del self._connections[caller.account]

    def _accept(self) -> None:
        end = time.monotonic() + _BATCH_SECONDS
        while self._accept_one() and time.monotonic() < end:
            pass

    def _accept_one(self) -> bool:
        """Accept a connection; return whether there may be another one."""
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False  # none is left, perhaps because another process was faster
        except OSError as error:
            self._pause(error)
            return False
        try:
            caller = caller_of(sock, self._log_limit)
        except OSError as error:
            self._closer.close_socket(_UNKNOWN, sock)
            self._pause(error)
            return False
        if self._failing:
            self._failing = False
            log.info("connections to %s are accepted again", self._name)
        if not self._count(caller):
            if self._log_limit.allows(caller):
                log.warning("too many connections to %s; refused one of %s (pid %d)", self._name, caller, caller.pid)
            self._closer.close_socket(caller.account, sock)
            return True
        sock.setblocking(False)
        self._take(sock, caller)
        return True

    def _count(self, caller: Caller) -> bool:
        """Count a connection of `caller`, unless it may have no more."""
        held = self._connections.get(caller.account) or Quota(self._pool, caller.account, self._per_user)
        if not held.take():
            return False
        self._connections[caller.account] = held
        return True

    def _pause(self, error: OSError) -> None:
        """Retry later: without descriptors the listener stays readable, and the event loop would spin."""
        if not self._failing:
            self._failing = True
            log.error("cannot accept connections to %s for now: %s", self._name, error)
        self.stop()
        self._retry = self._loop.call_later(_PAUSE_SECONDS, self.start)
