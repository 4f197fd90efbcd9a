"""Forward flows in userspace, to an unmodified server's UDP socket or to an application's end of a socket pair.

A flow has one socket connected to its client, which keeps it apart from other traffic of the shared port, and one
connected to its server. Beyond a limit, flows use the shared socket towards their client instead, because the kernel's
lookup for a datagram of an unknown flow takes time in proportion to the connected sockets of the port.

The sockets are watched by an epoll instance of its own, a single descriptor in the event loop: that takes a third of
asyncio's time for a datagram and a tenth of its memory for a flow.
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
_MAX_CIDS = 8
_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_INPUT = memoryview(bytearray(65536))
_BUFFERS = [_INPUT]


@dataclass(frozen=True, slots=True)
class ForwarderBounds:
    """Limits of forwarded flows. Times are in seconds."""

    flows: int = 65536
    flows_per_source: int = 4096
    connected: int = field(default_factory=lambda: 8192 if _hashes_connected_sockets() else 2048)
    """Sockets connected to clients; benchmarks/RESULTS.md has the measurements behind the defaults."""
    paths: int = 8
    embryonic_seconds: float = 10.0
    idle_seconds: float = 180.0

    def within(self, descriptors: int) -> "ForwarderBounds":
        """Return these bounds for a process limited to `descriptors`, some of which are reserved for other uses.

        A flow takes one descriptor for its server, and one for its client below the limit `connected`.
        """
        usable = descriptors - min(1024, descriptors // 4)
        flows = usable // 2 if usable // 2 <= self.connected else usable - self.connected
        return replace(self, flows=max(1, min(self.flows, flows)))


def _hashes_connected_sockets() -> bool:
    """Return whether the kernel hashes connected UDP sockets (Linux 6.13); older ones compare them one by one."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return (int(major), int(minor)) >= (6, 13)


class ForwardedFlow:
    """A flow between the client `peer` of `local` and a server.

    ``established`` means that the client has used a connection ID issued by the server, which proves its address.
    """

    __slots__ = (
        "cids",
        "client_socket",
        "current_cid",
        "established",
        "header",
        "last_active",
        "local",
        "origin",
        "paths",
        "peer",
        "prefix",
        "server_socket",
        "source",
        "target",
    )

    def __init__(self, local: LocalSocket, peer: Address, server_socket: socket.socket) -> None:
        self.local = local
        self.peer = peer
        self.client_socket: socket.socket | None = None  # None: on the shared socket
        self.server_socket = server_socket
        self.target: Address | None = None  # None: an application's end of a socket pair
        self.prefix = b""  # PROXY protocol header, until the server has answered
        self.header: LongHeader | None = None  # of the client's Initial, until the server has answered
        self.cids: list[bytes] = []
        self.current_cid = b""
        self.established = False
        self.last_active = 0.0
        self.origin: ForwardedFlow | None = None  # the flow of the connection's first path
        self.paths = 1  # open paths of this connection; counted at its origin
        self.source = ""


class UdpForwarder:
    """All forwarded flows. ``on_unreachable`` is called with a new flow whose server cannot be reached."""

    def __init__(self, bounds: ForwarderBounds, connection_ids: ConnectionIds[Any, ForwardedFlow]) -> None:
        self._bounds = bounds
        self._connection_ids = connection_ids
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, ForwardedFlow] = {}
        self._on_shared_socket: dict[tuple[LocalSocket, Address], ForwardedFlow] = {}
        self._sources: dict[str, int] = {}
        self._flows: dict[ForwardedFlow, None] = {}
        self._embryonic: dict[ForwardedFlow, None] = {}
        self._connected = 0
        self._now = 0.0
        self.on_unreachable: Callable[[ForwardedFlow], None] = lambda _: None

    def fileno(self) -> int:
        """Return the descriptor that is readable when ``run`` has work to do."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def connected(self) -> int:
        """The number of flows with a socket connected to their client."""
        return self._connected

    def forward(
        self, local: LocalSocket, peer: Address, target: Address, source: str, now: float, *, proxy: bool
    ) -> ForwardedFlow | None:
        """Open a flow to the server at `target`, with a PROXY header if `proxy`; None if a limit is reached."""
        if not self._has_room(source):
            return None
        try:
            server_socket = socket.socket(family_of(target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            server_socket.connect(target)
        except OSError:
            server_socket.close()
            return None
        flow = ForwardedFlow(local, peer, server_socket)
        flow.target = target
        self._add(flow, source, now)
        if proxy:
            flow.prefix = proxy_header(peer, local.address)
        return flow

    def pair(
        self, local: LocalSocket, peer: Address, source: str, now: float, *, established: bool = False
    ) -> tuple[ForwardedFlow, socket.socket] | None:
        """Open a flow to an application. Return it with the application's end of the pair; None if a limit is reached.

        `established` marks a new path of an existing connection, whose handshake took another path.
        """
        if not self._has_room(source):
            return None
        try:
            end, peer_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        flow = self._add(ForwardedFlow(local, peer, end), source, now)
        if established:
            self._establish(flow)
        return flow, peer_end

    def branch(
        self, flow: ForwardedFlow, local: LocalSocket, peer: Address, source: str, now: float
    ) -> ForwardedFlow | None:
        """Open another path of the connection of `flow`, whose client now sends from `peer`; None if it cannot be had.

        The server sees a new address and validates it (RFC 9000 section 9); the old path remains.
        """
        origin = flow.origin or flow
        if origin.target is None or origin.paths >= self._bounds.paths or not origin.paths:
            return None
        path = self.forward(local, peer, origin.target, source, now, proxy=bool(origin.prefix))
        if path is not None:
            path.origin = origin
            origin.paths += 1
            path.paths = 0
            path.current_cid = flow.current_cid
            path.cids = origin.cids
        return path

    def on_shared_socket(self, local: LocalSocket, peer: Address) -> ForwardedFlow | None:
        """Return the flow of `peer` that uses the shared socket towards its client."""
        return self._on_shared_socket.get((local, peer))

    def from_client(self, flow: ForwardedFlow, datagram: bytes | memoryview, segment_size: int = 0) -> None:
        """Pass `datagram`, or a batch of datagrams of `segment_size` bytes, on to the server."""
        if flow.current_cid and not datagram[0] & 0x80:
            self._note_client_cid(flow, bytes(datagram[1 : 1 + len(flow.current_cid)]))
        flow.last_active = self._now
        try:
            if flow.prefix or flow.target is None:
                for one in split(datagram, segment_size):
                    flow.server_socket.send(flow.prefix + one)
            else:
                send(flow.server_socket, datagram, segment_size)
        except (BlockingIOError, InterruptedError):
            return  # dropped, as on any congested path
        except OSError:
            self._fail(flow)

    def run(self, now: float) -> None:
        """Forward received datagrams, a bounded number for each flow."""
        self._now = now
        for descriptor, _ in self._epoll.poll(0, _EVENTS):
            flow = self._by_descriptor.get(descriptor)
            if flow is None:
                continue
            if flow.client_socket is not None and descriptor == flow.client_socket.fileno():
                self._from_client_socket(flow, flow.client_socket)
            else:
                self._from_server_socket(flow)

    def sweep(self, now: float) -> int:
        """Close the idle flows. Return their number."""
        self._now = now
        idle, embryonic = now - self._bounds.idle_seconds, now - self._bounds.embryonic_seconds
        expired = [flow for flow in self._flows if flow.last_active < (idle if flow.established else embryonic)]
        for flow in expired:
            self.close(flow)
        return len(expired)

    def close(self, flow: ForwardedFlow) -> None:
        """Close `flow` and its sockets."""
        if flow not in self._flows:
            return
        del self._flows[flow]
        del self._by_descriptor[flow.server_socket.fileno()]
        flow.server_socket.close()
        if flow.client_socket is not None:
            del self._by_descriptor[flow.client_socket.fileno()]
            flow.client_socket.close()
            self._connected -= 1
        else:
            self._on_shared_socket.pop((flow.local, flow.peer), None)
        self._embryonic.pop(flow, None)
        origin = flow.origin or flow
        origin.paths -= 1
        if not origin.paths:
            for cid in flow.cids:
                self._connection_ids.forget(cid)
        self._sources[flow.source] -= 1
        if not self._sources[flow.source]:
            del self._sources[flow.source]

    def _has_room(self, source: str) -> bool:
        if self._sources.get(source, 0) >= self._bounds.flows_per_source:
            return False
        if len(self._flows) < self._bounds.flows:
            return True
        # The oldest flow that is not established makes room; established ones never do.
        oldest = next(iter(self._embryonic), None)
        if oldest is not None:
            self.close(oldest)
        return oldest is not None

    def _add(self, flow: ForwardedFlow, source: str, now: float) -> ForwardedFlow:
        former = self._on_shared_socket.get((flow.local, flow.peer))
        if former is not None:
            self.close(former)  # the new flow receives its datagrams
        if self._connected < self._bounds.connected:
            flow.client_socket = flow.local.open_flow(flow.peer)
        self._now = flow.last_active = now
        flow.source = source
        self._sources[source] = self._sources.get(source, 0) + 1
        self._flows[flow] = self._embryonic[flow] = None
        self._watch(flow.server_socket, flow)
        if flow.target is not None:
            enable_gro(flow.server_socket)
        if flow.client_socket is not None:
            enable_gro(flow.client_socket)
            self._connected += 1
            self._watch(flow.client_socket, flow)
        else:
            self._on_shared_socket[(flow.local, flow.peer)] = flow
        return flow

    def _watch(self, sock: socket.socket, flow: ForwardedFlow) -> None:
        self._by_descriptor[sock.fileno()] = flow
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _from_client_socket(self, flow: ForwardedFlow, client_socket: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                size, segment_size = receive(client_socket, _BUFFERS)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error: if the client is gone, the flow becomes idle
                return
            if size:
                self.from_client(flow, _INPUT[:size], segment_size)
            if flow not in self._flows:
                return

    def _from_server_socket(self, flow: ForwardedFlow) -> None:
        client_socket = flow.client_socket
        for _ in range(_BATCH):
            try:
                size, segment_size = receive(flow.server_socket, _BUFFERS)
            except BlockingIOError:
                return
            except OSError:
                self._fail(flow)
                return
            if not size:
                if flow.target is None:  # the application closed its end
                    self.close(flow)
                    return
                continue
            flow.prefix, flow.header = b"", None
            flow.last_active = self._now
            if _INPUT[0] & 0x80 and not flow.established:
                self._note_server_cid(flow, bytes(_INPUT[: min(size, 64)]))
            if client_socket is None:
                for datagram in split(_INPUT[:size], segment_size):
                    flow.local.send(datagram, flow.peer)
                continue
            try:
                send(client_socket, _INPUT[:size], segment_size)
            except OSError:
                continue  # dropped, as on any congested path

    def _fail(self, flow: ForwardedFlow) -> None:
        if flow.established or flow not in self._flows:
            return  # the server may be restarting; if it does not return, the flow becomes idle
        self.on_unreachable(flow)
        self.close(flow)

    def _note_server_cid(self, flow: ForwardedFlow, start: bytes) -> None:
        header = pull_long_header(start)
        if header is not None and header.source_cid and header.source_cid != flow.current_cid:
            flow.current_cid = header.source_cid
            self._learn(flow, header.source_cid)

    def _note_client_cid(self, flow: ForwardedFlow, cid: bytes) -> None:
        # Only the server's first connection ID is visible in its packets. Later ones are issued encrypted, and are
        # learned when the client uses them on this flow.
        if not flow.established:
            if cid == flow.current_cid:
                self._establish(flow)
        elif cid != flow.current_cid:
            flow.current_cid = cid
            self._learn(flow, cid)

    def _establish(self, flow: ForwardedFlow) -> None:
        flow.established = True
        del self._embryonic[flow]

    def _learn(self, flow: ForwardedFlow, cid: bytes) -> None:
        if self._connection_ids.learn(cid, flow.origin or flow):
            flow.cids.append(cid)  # the same list on all paths of a connection
            if len(flow.cids) > _MAX_CIDS:
                self._connection_ids.forget(flow.cids.pop(0))


def proxy_header(peer: Address, local: Address) -> bytes:
    """Return a PROXY protocol v2 header for a datagram from `peer` to `local`."""
    family = family_of(peer)
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    hosts = b"".join(socket.inet_pton(family, str(address[0]).partition("%")[0]) for address in (peer, local))
    body = hosts + struct.pack("!HH", peer[1], local[1])
    return _PROXY_SIGNATURE + bytes([0x21, kind]) + struct.pack("!H", len(body)) + body
