"""Accepts the connections of local users, within bounds for all of them and for each."""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from handshaked.callers.identity import caller_of
from handshaked.callers.log_limit import LogLimit
from handshaked.model import Caller

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """How many connections there may be: of all users together, and of one."""

    total: int
    of_one: int
    reserve: int
    """Of all of them, those that only root and the daemon's own user get."""


class Acceptor:
    """Accepts on `listener`, which the log calls `name`, and gives each connection, non-blocking, to `take`.

    Who has taken one gives it back (``release``) when it is over, with all that it has caused.
    """

    def __init__(
        self,
        listener: socket.socket,
        name: str,
        bounds: ConnectionBounds,
        log_limit: LogLimit,
        take: Callable[[socket.socket, Caller], object],
    ) -> None:
        self._listener = listener
        self._name = name
        self._bounds = bounds
        self._log_limit = log_limit
        self._take = take
        self._privileged = {0, os.geteuid()}
        self._connections: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._in_trouble = False
        listener.setblocking(False)

    def start(self) -> None:
        """Begin to accept."""
        self._again = None
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        self._loop.remove_reader(self._listener)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def release(self, caller: Caller) -> None:
        """A connection of `caller` is over."""
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
        if self._in_trouble:
            self._in_trouble = False
            log.info("connections to %s are accepted again", self._name)
        caller = caller_of(sock)
        if not self._has_room(caller):
            if self._log_limit.allows(caller):
                log.warning("too many connections to %s; refused one of %s (pid %d)", self._name, caller, caller.pid)
            sock.close()
            return
        self._connections[caller.uid] += 1
        sock.setblocking(False)
        self._take(sock, caller)

    def _has_room(self, caller: Caller) -> bool:
        reserve = 0 if caller.uid in self._privileged else self._bounds.reserve
        return (
            self._connections[caller.uid] < self._bounds.of_one
            and self._connections.total() < self._bounds.total - reserve
        )

    def _pause(self, error: OSError) -> None:
        """Out of descriptors: the listener stays readable, so wait instead of spinning."""
        if not self._in_trouble:
            self._in_trouble = True
            log.error("cannot accept connections to %s for now: %s", self._name, error)
        self.stop()
        self._again = self._loop.call_later(_PAUSE_SECONDS, self.start)
