"""Find the owner of a connection by its connection ID: a route assigned to a listener, or an ID learned from a flow.

A route is the prefix of all connection IDs that a listener issues. Servers that receive forwarded flows choose their
own IDs, which are learned from their packets.
"""

import hmac
import os
from pathlib import Path
from typing import Generic, TypeVar

from handshaked.wire.demux import ROUTE_SIZE

ListenerT = TypeVar("ListenerT")
FlowT = TypeVar("FlowT")
_MIN_LEARNED_SIZE = 4  # shorter IDs are easily guessed, and collide
_RANDOM = 2  # random bytes of a route; the others authenticate its user
_MACHINE_ID = Path("/etc/machine-id")
_MAX_LEARNED = 1 << 18


class ConnectionIds(Generic[ListenerT, FlowT]):
    """A table of the routes assigned to listeners and the connection IDs learned from flows."""

    def __init__(self) -> None:
        self._key = b"handshaked-demux" + (_MACHINE_ID.read_bytes() if _MACHINE_ID.exists() else b"")
        self._listeners: dict[bytes, ListenerT] = {}
        self._learned: dict[bytes, FlowT] = {}
        self._lengths: dict[int, int] = {}

    def assign_route(self, listener: ListenerT, user: int, wanted: bytes | None = None) -> bytes:
        """Assign a route to `listener` of the uid `user`: the `wanted` one if it is free and belongs to that user.

        Routes are visible on the wire. Binding each to a user keeps other users from asking for it after a restart,
        and so from receiving the datagrams of its connections.
        """
        route = wanted if wanted is not None and wanted == self._bind_to_user(wanted[:_RANDOM], user) else None
        while route is None or route in self._listeners:
            route = self._bind_to_user(os.urandom(_RANDOM), user)
        self._listeners[route] = listener
        return route

    def _bind_to_user(self, start: bytes, user: int) -> bytes:
        """Return the route of `user` that begins with `start`; only this machine can tell whose it is."""
        return start + hmac.digest(self._key, start + user.to_bytes(4), "sha256")[: ROUTE_SIZE - _RANDOM]

    def release_route(self, route: bytes) -> None:
        """Remove `route`."""
        self._listeners.pop(route, None)

    def learn(self, cid: bytes, flow: FlowT) -> bool:
        """Map `cid` to `flow`. Return whether it was added: it is not if it is too short, known, or the table full."""
        if len(cid) < _MIN_LEARNED_SIZE or cid in self._learned or len(self._learned) >= _MAX_LEARNED:
            return False
        self._learned[cid] = flow
        self._lengths[len(cid)] = self._lengths.get(len(cid), 0) + 1
        return True

    def forget(self, cid: bytes) -> None:
        """Remove the learned `cid`."""
        if self._learned.pop(cid, None) is None:
            return
        self._lengths[len(cid)] -= 1
        if not self._lengths[len(cid)]:
            del self._lengths[len(cid)]

    def listener(self, cid: bytes) -> ListenerT | None:
        """Return the listener whose route `cid` begins with; bytes that follow the connection ID are ignored."""
        return self._listeners.get(cid[:ROUTE_SIZE])

    def flow(self, cid: bytes) -> FlowT | None:
        """Return the flow from which `cid` was learned."""
        return self._learned.get(cid)

    def flow_of_short_header(self, datagram: bytes) -> FlowT | None:
        """Return the flow of a packet with a short header, which does not carry the length of its connection ID."""
        for length in self._lengths:
            flow = self._learned.get(datagram[1 : 1 + length])
            if flow is not None:
                return flow
        return None

    def __len__(self) -> int:
        return len(self._learned)
