"""Forward flows in userspace, to an unmodified server's UDP socket or to an application's end of a socket pair.

A flow has one socket connected to its client, which keeps it apart from other traffic of the shared port, and one
connected to its server. Beyond a limit, flows use the shared socket towards their client instead, because the kernel's
lookup for a datagram of an unknown flow takes time in proportion to the connected sockets of the port.

Several connections may come from one client address and port: of one client, or of the subscribers to whom a NAT gives
it in turn. Each has its own flow, and the connection IDs tell their datagrams apart.

The sockets are watched by an epoll instance of its own, a single descriptor in the event loop: that takes a third of
asyncio's time for a datagram and a tenth of its memory for a flow.
"""

import errno
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from handshaked.callers.closing import close_unread
from handshaked.callers.threads import Threads
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.forwarded_flow import ForwardedFlow, ForwarderBounds, proxy_header
from handshaked.demux.segmentation import (
    enable_gro,
    receive,
    receive_marks,
    send,
    set_mark,
    split,
)
from handshaked.demux.shared_port import LocalSocket
from handshaked.demux.sockets import OwnSockets, Sockets
from handshaked.quic.packets import pull_long_header
from handshaked.wire.addresses import Address, family_of
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, refuse_descriptors

_BATCH = 32
_EVENTS = 256
_MAX_CIDS = 8
_MAX_FLOWS_AT_PEER = 4
_CLOSING_THREADS = 16
_INPUT = memoryview(bytearray(65536))
_BUFFERS = [_INPUT]


class UdpForwarder:
    """All forwarded flows.

    ``on_unreachable`` is called with a new flow whose server cannot be reached. ``on_unknown`` is called with a flow, a
    datagram from its client's address whose long header has an unknown connection ID, and the datagram's ECN mark; it
    returns whether it handled the datagram, which otherwise belongs to the flow.
    """

    def __init__(
        self,
        bounds: ForwarderBounds,
        connection_ids: ConnectionIds[Any, ForwardedFlow],
        sockets: Sockets | None = None,
    ) -> None:
        self._sockets = sockets or OwnSockets()
        self._bounds = bounds
        self._connection_ids = connection_ids
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, ForwardedFlow] = {}
        self._at: dict[tuple[LocalSocket, Address], list[ForwardedFlow]] = {}
        self._sources: dict[str, int] = {}
        self._flows: dict[ForwardedFlow, None] = {}
        self._embryonic: dict[ForwardedFlow, None] = {}
        self._connected = 0
        self._now = 0.0
        self._threads = Threads(_CLOSING_THREADS)
        self.on_unreachable: Callable[[ForwardedFlow], None] = lambda _: None
        self.on_unknown: Callable[[ForwardedFlow, bytes, int], bool] = lambda *_: False

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
            server_socket = self._sockets.unbound(family_of(target))
        except OSError:
            return None
        try:
            server_socket.connect(target)
        except OSError:
            server_socket.close()
            return None
        flow = ForwardedFlow(local, peer, server_socket)
        flow.target = target
        if not self._add(flow, source, now):
            return None
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
        refuse_descriptors(end)
        flow = ForwardedFlow(local, peer, end)
        if not self._add(flow, source, now):
            peer_end.close()
            return None
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

    def at(self, local: LocalSocket, peer: Address) -> ForwardedFlow | None:
        """Return the newest flow of `peer`, the client's address."""
        flows = self._at.get((local, peer))
        return flows[-1] if flows else None

    def receive(self, flow: ForwardedFlow, batch: bytes | memoryview, segment_size: int = 0, mark: int = 0) -> None:
        """Pass a batch from the client's address of `flow` on, each datagram to the flow of its connection."""
        flows = self._at.get((flow.local, flow.peer), [flow])
        starts = range(0, len(batch), segment_size or len(batch))
        if len(flows) == 1 and not any(batch[start] & 0x80 for start in starts):
            self.from_client(flow, batch, segment_size, mark)
            return
        for datagram in split(batch, segment_size):
            owner = next((one for one in reversed(flows) if one.knows(datagram)), None)
            if owner is None and datagram[0] & 0x80 and self.on_unknown(flows[-1], bytes(datagram), mark):
                continue
            owner = owner or max(flows, key=lambda one: (one.established, one.last_active), default=None)
            if owner is not None:
                self.from_client(owner, datagram, mark=mark)

    def from_client(
        self, flow: ForwardedFlow, datagram: bytes | memoryview, segment_size: int = 0, mark: int = 0
    ) -> None:
        """Pass `datagram`, or a batch of datagrams of `segment_size` bytes, on to the server with its ECN mark."""
        if flow.current_cid and not datagram[0] & 0x80:
            self._note_client_cid(flow, bytes(datagram[1 : 1 + len(flow.current_cid)]))
        flow.last_active = self._now
        try:
            if flow.target is not None:
                self._mark(flow, flow.server_socket, mark)
            if flow.prefix or flow.target is None:
                for one in split(datagram, segment_size):
                    send(flow.server_socket, flow.prefix + one, 0)
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
        if flow.target is None:
            close_unread(flow.server_socket, flow.threads or self._threads, lambda: None)
        else:
            flow.server_socket.close()
        if flow.client_socket is not None:
            del self._by_descriptor[flow.client_socket.fileno()]
            flow.client_socket.close()
            self._connected -= 1
        flows = self._at[flow.local, flow.peer]
        flows.remove(flow)
        if not flows:
            del self._at[flow.local, flow.peer]
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

    def _add(self, flow: ForwardedFlow, source: str, now: float) -> bool:
        """Add `flow`; return False, and close it, if the kernel cannot watch its sockets."""
        flows = self._at.get((flow.local, flow.peer), [])
        if len(flows) >= _MAX_FLOWS_AT_PEER:
            self.close(min(flows, key=lambda one: (one.established, one.last_active)))
        if self._connected < self._bounds.connected:
            flow.client_socket = flow.local.open_flow(flow.peer)
        self._now = flow.last_active = now
        flow.source = source
        self._sources[source] = self._sources.get(source, 0) + 1
        self._flows[flow] = self._embryonic[flow] = None
        self._at.setdefault((flow.local, flow.peer), []).append(flow)
        if flow.target is not None:
            enable_gro(flow.server_socket)
            receive_marks(flow.server_socket)
        if flow.client_socket is not None:
            enable_gro(flow.client_socket)
            receive_marks(flow.client_socket)
            self._connected += 1
        sockets = [one for one in (flow.server_socket, flow.client_socket) if one is not None]
        self._by_descriptor |= {one.fileno(): flow for one in sockets}
        try:
            for one in sockets:
                self._epoll.register(one.fileno(), select.EPOLLIN)
        except OSError:
            self.close(flow)
            return False
        return True

    def _from_client_socket(self, flow: ForwardedFlow, client_socket: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                size, segment_size, mark = receive(client_socket, _BUFFERS)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error: if the client is gone, the flow becomes idle
                return
            if size:
                self.receive(flow, _INPUT[:size], segment_size, mark)
            if flow not in self._flows:
                return

    def _from_server_socket(self, flow: ForwardedFlow) -> None:
        for _ in range(_BATCH):
            try:
                size, segment_size, mark = self._receive(flow)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:  # a router on the way reports that a datagram was too long
                    continue
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
            self._to_client(flow, _INPUT[:size], segment_size, mark)

    def _receive(self, flow: ForwardedFlow) -> tuple[int, int, int]:
        """Receive from the server, as ``segmentation.receive``, or from the application."""
        if flow.target is not None:
            return receive(flow.server_socket, _BUFFERS)
        size, control, _, _ = flow.server_socket.recvmsg_into(_BUFFERS, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        descriptors = pull_descriptors(control)
        if descriptors:  # closing them may block; an application that attaches some loses its flow
            (flow.threads or self._threads).run(partial(close_all, descriptors), lambda: None)
            return 0, 0, 0
        return size, 0, 0

    def _to_client(self, flow: ForwardedFlow, batch: memoryview, segment_size: int, mark: int) -> None:
        if flow.client_socket is None:
            for datagram in split(batch, segment_size):
                flow.local.send(datagram, flow.peer, mark)
            return
        with suppress(OSError):  # dropped, as on any congested path
            self._mark(flow, flow.client_socket, mark)
            send(flow.client_socket, batch, segment_size)

    def _mark(self, flow: ForwardedFlow, sock: socket.socket, mark: int) -> None:
        """Let `sock` send with the ECN mark `mark`; it rarely changes."""
        if flow.marks.get(sock, 0) != mark:
            flow.marks[sock] = mark
            set_mark(sock, mark)

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
