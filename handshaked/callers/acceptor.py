"""Accepts connections of local users, within a limit for each user and a limit for all."""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from handshaked.callers.closing import Closer
from handshaked.callers.identity import caller_of
from handshaked.callers.log_limit import LogLimit
from handshaked.model import Caller

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Limits on the number of connections."""

    total: int
    per_user: int
    reserve: int
    """The part of ``total`` that is reserved for root and the daemon's own user."""


class Acceptor:
    """Accepts on `listener`, called `name` in the log, and passes each connection, non-blocking, to `take`.

    The owner of a connection must call ``release`` when the connection and everything it started has ended.
    """

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        bounds: ConnectionBounds,
        log_limit: LogLimit,
        closer: Closer,
        take: Callable[[socket.socket, Caller], object],
    ) -> None:
        self._listener = listener
        self._name = name
        self._bounds = bounds
        self._log_limit = log_limit
        self._closer = closer
        self._take = take
        self._privileged = {0, os.geteuid()}
        self._connections: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._failing = False
        listener.setblocking(False)

    def start(self) -> None:
        """Start accepting."""
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Stop accepting; accepted connections continue."""
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def release(self, caller: Caller) -> None:
        """Count one connection of `caller` less."""
        self._connections[caller.uid] -= 1
        if not self._connections[caller.uid]:
            del self._connections[caller.uid]

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            self._pause(error)
            return
        if self._failing:
            self._failing = False
            log.info("connections to %s are accepted again", self._name)
        caller = caller_of(sock)
        if not self._has_room(caller):
            if self._log_limit.allows(caller):
                log.warning("too many connections to %s; refused one of %s (pid %d)", self._name, caller, caller.pid)
            self._closer.close_socket(caller.uid, sock)
            return
        self._connections[caller.uid] += 1
        sock.setblocking(False)
        self._take(sock, caller)

    def _has_room(self, caller: Caller) -> bool:
        reserve = 0 if caller.uid in self._privileged else self._bounds.reserve
        return (
            self._connections[caller.uid] < self._bounds.per_user
            and self._connections.total() < self._bounds.total - reserve
        )

    def _pause(self, error: OSError) -> None:
        """Retry later: without descriptors the listener stays readable, and the event loop would spin."""
        if not self._failing:
            self._failing = True
            log.error("cannot accept connections to %s for now: %s", self._name, error)
        self.stop()
        self._retry = self._loop.call_later(_PAUSE_SECONDS, self.start)
