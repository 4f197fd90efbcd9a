"""Where datagrams go that say no server name: by their connection ID, if it is known or begins with a known route."""

import hmac
import os
from pathlib import Path
from typing import Generic, TypeVar

from handshaked.wire.demux import ROUTE_SIZE

L = TypeVar("L")
R = TypeVar("R")
_SHORTEST = 4  # shorter ones are too easily guessed, or met by chance
_RANDOM = 2  # bytes of a route; the others tell users apart
_MACHINE_ID = Path("/etc/machine-id")
_MAX_LEARNED = 1 << 18


class ConnectionIds(Generic[L, R]):
    """ConnectionIds given to listeners (L), and connection IDs learned of relays (R)."""

    def __init__(self) -> None:
        self._key = b"handshaked-demux" + (_MACHINE_ID.read_bytes() if _MACHINE_ID.exists() else b"")
        self._listeners: dict[bytes, L] = {}
        self._learned: dict[bytes, R] = {}
        self._lengths: dict[int, int] = {}

    def give(self, listener: L, user: int, wish: bytes | None = None) -> bytes:
        """A route for `listener`, which is `user`'s: the one it wishes for, if that is free and one of that user's.

        A route is to be read on the wire: behind a restart nobody else may take it, and what it leads to, by asking.
        """
        route = wish if wish is not None and wish == self._marked(wish[:_RANDOM], user) else None
        while route is None or route in self._listeners:
            route = self._marked(os.urandom(_RANDOM), user)
        self._listeners[route] = listener
        return route

    def _marked(self, start: bytes, user: int) -> bytes:
        """The route that begins with `start` and is `user`'s; nobody outside of this machine can tell whose."""
        return start + hmac.digest(self._key, start + user.to_bytes(4), "sha256")[: ROUTE_SIZE - _RANDOM]

    def take(self, route: bytes) -> None:
        """`route` leads nowhere any more."""
        self._listeners.pop(route, None)

    def learn(self, cid: bytes, relay: R) -> bool:
        """`relay` answers to `cid`; whether that is news."""
        if len(cid) < _SHORTEST or cid in self._learned or len(self._learned) >= _MAX_LEARNED:
            return False
        self._learned[cid] = relay
        self._lengths[len(cid)] = self._lengths.get(len(cid), 0) + 1
        return True

    def forget(self, cid: bytes) -> None:
        """Nobody answers to `cid` any more."""
        if self._learned.pop(cid, None) is None:
            return
        self._lengths[len(cid)] -= 1
        if not self._lengths[len(cid)]:
            del self._lengths[len(cid)]

    def listener(self, cid: bytes) -> L | None:
        """Who was given the route that `cid` (or what follows the first byte of a short header) begins with."""
        return self._listeners.get(cid[:ROUTE_SIZE])

    def relay(self, cid: bytes) -> R | None:
        """Who answers to `cid`."""
        return self._learned.get(cid)

    def relay_behind_short_header(self, datagram: bytes) -> R | None:
        """Who answers to the connection ID in `datagram`, whose length a short header does not tell."""
        for length in self._lengths:
            relay = self._learned.get(datagram[1 : 1 + length])
            if relay is not None:
                return relay
        return None

    def __len__(self) -> int:
        return len(self._learned)
