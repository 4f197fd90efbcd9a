"""Flows whose datagrams pass through here: to a server that knows nothing of us, or to an application's socket pair.

A relay has a socket connected to its client, so that a crowd at the shared port does not reach it, and one towards its
server. Beyond a number of such sockets the shared one is used for the client's side: looking a datagram of an unknown
flow up takes the kernel time in proportion to the connected sockets of the port.

The many sockets here have an epoll of their own, which is one descriptor in the event loop: it takes a third of
asyncio's time for a datagram, and a tenth of its memory for a flow.
"""

import os
import re
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.segmentation import enable_gro, receive, send, split
from handshaked.demux.shared_port import LocalSocket
from handshaked.quic.packets import LongHeader, pull_long_header
from handshaked.wire.addresses import Address, family_of

_BATCH = 32
_EVENTS = 256
_SWEEP_SECONDS = 1.0
_MAX_CIDS = 8
_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_INPUT = memoryview(bytearray(65536))
_BUFFERS = [_INPUT]


@dataclass(frozen=True, slots=True)
class ForwarderBounds:
    """What relayed flows may take. Times are in seconds."""

    flows: int = 65536
    flows_per_source: int = 4096
    connected: int = field(default_factory=lambda: 8192 if _finds_connected_at_once() else 2048)
    """Sockets connected to clients; benchmarks/RESULTS.md says what was measured."""
    paths: int = 8
    embryonic_seconds: float = 10.0
    idle_seconds: float = 180.0

    def within(self, descriptors: int) -> "ForwarderBounds":
        """These bounds for a process that may have so many descriptors: flows leave some of them for the others.

        A flow takes one for its server, and one for its client while not too many are connected.
        """
        most = descriptors - min(1024, descriptors // 4)
        most = most // 2 if most // 2 <= self.connected else most - self.connected
        return replace(self, flows=max(1, min(self.flows, most)))


def _finds_connected_at_once() -> bool:
    """Whether the kernel has a table of connected UDP sockets (Linux 6.13); without it, it looks at one by one."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return (int(major), int(minor)) >= (6, 13)


class ForwardedFlow:
    """A flow between `peer` at `local` and `server`. ``established``: the client used an ID that the server gave."""

    __slots__ = (
        "cids",
        "client_cid",
        "established",
        "front",
        "header",
        "last",
        "local",
        "origin",
        "paths",
        "peer",
        "prefix",
        "server",
        "source",
        "target",
    )

    def __init__(self, local: LocalSocket, peer: Address, front: socket.socket | None, server: socket.socket) -> None:
        self.local = local
        self.peer = peer
        self.front = front
        self.server = server
        self.target: Address | None = None
        self.prefix = b""
        self.header: LongHeader | None = None  # of the client's Initial, until the server has answered
        self.cids: list[bytes] = []
        self.client_cid = b""
        self.established = False
        self.last = 0.0
        self.origin: ForwardedFlow | None = None
        self.paths = 1  # open relays of this connection; counted at its origin
        self.source = ""


class UdpForwarder:
    """All relays. `closed_by_server` is told of a flow whose server was not there to take it."""

    def __init__(self, bounds: ForwarderBounds, routes: ConnectionIds[Any, ForwardedFlow]) -> None:
        self._bounds = bounds
        self._routes = routes
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, ForwardedFlow] = {}
        self._crowd: dict[tuple[LocalSocket, Address], ForwardedFlow] = {}
        self._sources: dict[str, int] = {}
        self._relays: dict[ForwardedFlow, None] = {}
        self._embryonic: dict[ForwardedFlow, None] = {}
        self._connected = 0
        self._now = 0.0
        self.on_unreachable: Callable[[ForwardedFlow], None] = lambda _: None

    def fileno(self) -> int:
        """Readable when ``run`` has something to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._relays)

    @property
    def connected(self) -> int:
        """How many relays have a socket of their own for their client."""
        return self._connected

    def forward(
        self, local: LocalSocket, peer: Address, target: Address, source: str, now: float, *, proxy: bool
    ) -> ForwardedFlow | None:
        """A relay to the server at `target`; None if there is no room for one more."""
        if not self._room(source):
            return None
        try:
            server = socket.socket(family_of(target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            server.connect(target)
        except OSError:
            server.close()
            return None
        relay = ForwardedFlow(local, peer, None, server)
        relay.target = target
        self._add(relay, source, now)
        if proxy:
            relay.prefix = proxy_header(peer, local.address)
        return relay

    def pair(
        self, local: LocalSocket, peer: Address, source: str, now: float, *, established: bool = False
    ) -> tuple[ForwardedFlow, socket.socket] | None:
        """A relay to an application, and the application's end of the pair; None if there is no room.

        `established`: it is a path of a connection that there is, whose handshake does not pass by here.
        """
        if not self._room(source):
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        relay = self._add(ForwardedFlow(local, peer, None, ours), source, now)
        if established:
            self._establish(relay)
        return relay, theirs

    def branch(
        self, relay: ForwardedFlow, local: LocalSocket, peer: Address, source: str, now: float
    ) -> ForwardedFlow | None:
        """Another path of the connection that `relay` carries: its client turned up at `peer`.

        The server sees a new address and validates it, as RFC 9000 section 9 wants it; the old path stays as it is.
        """
        origin = relay.origin or relay
        if origin.target is None or origin.paths >= self._bounds.paths or not origin.paths:
            return None
        path = self.forward(local, peer, origin.target, source, now, proxy=bool(origin.prefix))
        if path is not None:
            path.origin = origin
            origin.paths += 1
            path.paths = 0
            path.client_cid = relay.client_cid
            path.cids = origin.cids
        return path

    def crowded(self, local: LocalSocket, peer: Address) -> ForwardedFlow | None:
        """The relay that has the shared socket for its client's side."""
        return self._crowd.get((local, peer))

    def from_client(self, relay: ForwardedFlow, datagram: bytes | memoryview, each: int = 0) -> None:
        """Pass `datagram`, or a train of datagrams of `each` bytes, on to the server."""
        if relay.client_cid and not datagram[0] & 0x80:
            self._note_client_cid(relay, bytes(datagram[1 : 1 + len(relay.client_cid)]))
        relay.last = self._now
        try:
            if relay.prefix or relay.target is None:
                for one in split(datagram, each):
                    relay.server.send(relay.prefix + one)
            else:
                send(relay.server, datagram, each)
        except (BlockingIOError, InterruptedError):
            return  # as if lost on the way
        except OSError:
            self._fail(relay)

    def run(self, now: float) -> None:
        """Pass on what is there, a bounded number of datagrams for each flow."""
        self._now = now
        for descriptor, _ in self._epoll.poll(0, _EVENTS):
            relay = self._by_descriptor.get(descriptor)
            if relay is None:
                continue
            if relay.front is not None and descriptor == relay.front.fileno():
                self._pump_client(relay, relay.front)
            else:
                self._pump_server(relay)

    def sweep(self, now: float) -> int:
        """Close the relays that are idle; how many."""
        self._now = now
        idle, embryonic = now - self._bounds.idle_seconds, now - self._bounds.embryonic_seconds
        late = [relay for relay in self._relays if relay.last < (idle if relay.established else embryonic)]
        for relay in late:
            self.close(relay)
        return len(late)

    def close(self, relay: ForwardedFlow) -> None:
        """Forget `relay`."""
        if relay not in self._relays:
            return
        del self._relays[relay]
        del self._by_descriptor[relay.server.fileno()]
        relay.server.close()
        if relay.front is not None:
            del self._by_descriptor[relay.front.fileno()]
            relay.front.close()
            self._connected -= 1
        else:
            self._crowd.pop((relay.local, relay.peer), None)
        self._embryonic.pop(relay, None)
        origin = relay.origin or relay
        origin.paths -= 1
        if not origin.paths:
            for cid in relay.cids:
                self._routes.forget(cid)
        self._sources[relay.source] -= 1
        if not self._sources[relay.source]:
            del self._sources[relay.source]

    def _room(self, source: str) -> bool:
        if self._sources.get(source, 0) >= self._bounds.flows_per_source:
            return False
        if len(self._relays) < self._bounds.flows:
            return True
        # The oldest that no client has shown to be real makes room; those that carry connections never do.
        oldest = next(iter(self._embryonic), None)
        if oldest is not None:
            self.close(oldest)
        return oldest is not None

    def _add(self, relay: ForwardedFlow, source: str, now: float) -> ForwardedFlow:
        former = self._crowd.get((relay.local, relay.peer))
        if former is not None:
            self.close(former)  # it would hear nothing any more
        if self._connected < self._bounds.connected:
            relay.front = relay.local.open_flow(relay.peer)
        self._now = relay.last = now
        relay.source = source
        self._sources[source] = self._sources.get(source, 0) + 1
        self._relays[relay] = self._embryonic[relay] = None
        self._watch(relay.server, relay)
        if relay.target is not None:
            enable_gro(relay.server)
        if relay.front is not None:
            enable_gro(relay.front)
            self._connected += 1
            self._watch(relay.front, relay)
        else:
            self._crowd[(relay.local, relay.peer)] = relay
        return relay

    def _watch(self, sock: socket.socket, relay: ForwardedFlow) -> None:
        self._by_descriptor[sock.fileno()] = relay
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _pump_client(self, relay: ForwardedFlow, front: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                size, each = receive(front, _BUFFERS)
            except BlockingIOError:
                return
            except OSError:  # the client is gone, says ICMP; if so, the flow will be idle
                return
            if size:
                self.from_client(relay, _INPUT[:size], each)
            if relay not in self._relays:
                return

    def _pump_server(self, relay: ForwardedFlow) -> None:
        front = relay.front
        for _ in range(_BATCH):
            try:
                size, each = receive(relay.server, _BUFFERS)
            except BlockingIOError:
                return
            except OSError:
                self._fail(relay)
                return
            if not size:
                if relay.target is None:  # the application closed its end
                    self.close(relay)
                    return
                continue
            relay.prefix, relay.header = b"", None
            relay.last = self._now
            if _INPUT[0] & 0x80 and not relay.established:
                self._note_server_cid(relay, bytes(_INPUT[: min(size, 64)]))
            if front is None:
                for datagram in split(_INPUT[:size], each):
                    relay.local.send(datagram, relay.peer)
                continue
            try:
                send(front, _INPUT[:size], each)
            except OSError:
                continue  # as if lost on the way

    def _fail(self, relay: ForwardedFlow) -> None:
        if relay.established or relay not in self._relays:
            return  # a server that restarts; the flow becomes idle if it does not come back
        self.on_unreachable(relay)
        self.close(relay)

    def _note_server_cid(self, relay: ForwardedFlow, start: bytes) -> None:
        header = pull_long_header(start)
        if header is not None and header.source_cid and header.source_cid != relay.client_cid:
            relay.client_cid = header.source_cid
            self._learn(relay, header.source_cid)

    def _note_client_cid(self, relay: ForwardedFlow, cid: bytes) -> None:
        # The server gives the first one in the clear. Those that follow are given in private: that the client uses
        # them on this flow tells what they are.
        if not relay.established:
            if cid == relay.client_cid:
                self._establish(relay)
        elif cid != relay.client_cid:
            relay.client_cid = cid
            self._learn(relay, cid)

    def _establish(self, relay: ForwardedFlow) -> None:
        relay.established = True
        del self._embryonic[relay]

    def _learn(self, relay: ForwardedFlow, cid: bytes) -> None:
        if self._routes.learn(cid, relay.origin or relay):
            relay.cids.append(cid)  # the same list on all paths of a connection
            if len(relay.cids) > _MAX_CIDS:
                self._routes.forget(relay.cids.pop(0))


def proxy_header(peer: Address, local: Address) -> bytes:
    """A PROXY protocol v2 header: a datagram of `peer` to `local`, passed on."""
    family = family_of(peer)
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    hosts = b"".join(socket.inet_pton(family, str(address[0]).partition("%")[0]) for address in (peer, local))
    body = hosts + struct.pack("!HH", peer[1], local[1])
    return _PROXY_SIGNATURE + bytes([0x21, kind]) + struct.pack("!H", len(body)) + body
