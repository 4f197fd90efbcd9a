"""An aioquic server that accepts the connections of a registration from ``handshaked-demux``.

Each connection has its own UDP socket, connected to its peer. aioquic's server sees a single transport that chooses the
socket by the peer's address.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # in its documentation, not in an __all__
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.packet import pull_quic_header

from handshaked.shim.aioquic.adapter import AdapterOptions, create_adapted
from handshaked.shim.aioquic.endpoints import server_configuration
from handshaked.shim.client import HandshakeClient
from handshaked.shim.listening import DemuxClient
from handshaked.wire.addresses import Address, parse_address
from handshaked.wire.demux import RETRY_TOKEN, Datagram, Flow

_CID_LENGTH = 12  # a route and eight random bytes
_BATCH = 32
_MAX_HELD = 8
_MAX_PATHS = 4
_MAX_DATAGRAM = 65536


async def listen(
    registration: str,
    *,
    configuration: QuicConfiguration,
    client: HandshakeClient,
    path: Path | None = None,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
    stream_handler: QuicStreamHandler | None = None,
    early_data: bytes | None = None,
) -> "DemuxServer":
    """Serve the connections for `registration` on the port that the demultiplexer at `path` shares.

    The daemon that `client` talks to does the handshakes; `early_data` is as for ``serve``. OSError if the
    demultiplexer cannot be reached; PermissionError if it refuses, because the registration does not exist or this user
    may not use it.
    """
    server_side = server_configuration(configuration, _CID_LENGTH)
    server = DemuxServer(registration, server_side, client, path, create_protocol, early_data)
    await server.start(stream_handler)
    return server


class DemuxServer:
    """A server on a shared port, returned by ``listen``."""

    def __init__(
        self,
        registration: str,
        configuration: QuicConfiguration,
        client: HandshakeClient,
        path: Path | None,
        create_protocol: Callable[..., QuicConnectionProtocol],
        early_data: bytes | None,
    ) -> None:
        self._create = partial(create_adapted, create_protocol, client, AdapterOptions(registration, (), early_data))
        self._configuration = configuration
        self._demux = DemuxClient((registration,), self._on_flow, self._on_datagram, path)
        self._sockets: dict[Address, socket.socket] = {}
        self._users: dict[Address, set[QuicConnectionProtocol]] = {}
        self._peers: dict[QuicConnectionProtocol, dict[Address, None]] = {}
        self._held: dict[Address, deque[bytes]] = {}
        self._handling: Address | None = None
        self._loop = asyncio.get_running_loop()
        self._server: _Server | None = None

    async def start(self, stream_handler: QuicStreamHandler | None) -> None:
        """Start serving. Called by ``listen``."""
        self._server = _Server(
            self._ended,
            configuration=self._configuration,
            create_protocol=self._create_protocol,
            stream_handler=stream_handler,
        )
        self._server.connection_made(_Transport(self))
        await self._demux.start()

    def close(self) -> None:
        """Stop accepting connections and close all existing ones."""
        self._demux.close()
        if self._server is not None:
            self._server.close()
        for peer in list(self._sockets):
            self._release(peer)

    def send(self, datagram: bytes, peer: Address) -> None:
        """Send `datagram` on the socket of `peer`, or keep it until that socket arrives. For the transport only."""
        sock = self._sockets.get(peer)
        if sock is None:
            held = self._held.get(peer)
            if held is not None:
                held.append(datagram)
            return
        try:
            sock.send(datagram)
        except OSError:
            return  # like a datagram lost in the network

    def _create_protocol(
        self, connection: QuicConnection, stream_handler: QuicStreamHandler | None = None
    ) -> QuicConnectionProtocol:
        protocol = self._create(connection, stream_handler)
        _route_connection_ids(cast("Any", connection), self._demux.route or b"")
        if self._handling is not None:
            self._note_use(self._handling, protocol)
        return protocol

    def _note_use(self, peer: Address, protocol: QuicConnectionProtocol) -> None:
        self._users.setdefault(peer, set()).add(protocol)
        peers = self._peers.setdefault(protocol, {})
        peers[peer] = None
        if len(peers) > _MAX_PATHS:
            # Bounded, because a client may keep changing its address. A dropped path gets a new socket on return.
            current = cast("Any", protocol)._quic._network_paths[0].addr
            oldest = next(one for one in peers if one not in (current, peer))
            del peers[oldest]
            self._forget_use(oldest, protocol)

    def _on_flow(self, flow: Flow, sock: socket.socket) -> None:
        peer = parse_address(flow.peer)
        if peer in self._sockets:
            # Keep the existing socket: the kernel delivers to it.
            sock.close()
            self._demux.release()
        else:
            self._sockets[peer] = sock
            self._loop.add_reader(sock, self._read, peer, sock)
        for datagram in flow.datagrams:
            self._receive(datagram, peer, flow.original_cid)
        for datagram in self._held.pop(peer, ()):
            self.send(datagram, peer)
        if not self._users.get(peer):
            self._release(peer)

    def _on_datagram(self, message: Datagram) -> None:
        peer = parse_address(message.peer)
        if peer in self._sockets:  # it was sent before the connection had its socket
            self._receive(message.datagram, peer, None)
            return
        protocol = self._server.connection_of(message.datagram) if self._server is not None else None
        if protocol is None:
            return
        self._note_use(peer, protocol)
        if peer not in self._held:
            self._held[peer] = deque(maxlen=_MAX_HELD)
            self._demux.ask_for_path(message.peer, message.local)
        self._receive(message.datagram, peer, None)

    def _read(self, peer: Address, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                datagram = sock.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for an earlier datagram
            if not datagram and sock.family == socket.AF_UNIX:
                # The demultiplexer ended. Its successor provides a new socket when the client next sends something.
                self._close(peer)
                return
            self._receive(datagram, peer, None)
            if sock.fileno() < 0:
                return

    def _receive(self, datagram: bytes, peer: Address, original_cid: bytes | None) -> None:
        if self._server is None:
            return
        self._handling = peer
        try:
            self._server.receive(datagram, peer, original_cid)
        finally:
            self._handling = None

    def _ended(self, protocol: QuicConnectionProtocol) -> None:
        for peer in self._peers.pop(protocol, ()):
            self._forget_use(peer, protocol)

    def _forget_use(self, peer: Address, protocol: QuicConnectionProtocol) -> None:
        users = self._users.get(peer, set())
        users.discard(protocol)
        if not users:
            self._release(peer)

    def _release(self, peer: Address) -> None:
        self._users.pop(peer, None)
        self._held.pop(peer, None)
        self._close(peer)

    def _close(self, peer: Address) -> None:
        sock = self._sockets.pop(peer, None)
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()
            self._demux.release()


def _route_connection_ids(quic: Any, route: bytes) -> None:
    """Make all connection IDs that `quic` issues, now and later, begin with `route`."""
    replenish = quic._replenish_connection_ids

    def routed(connection_id: bytes) -> bytes:
        return route + connection_id[len(route) :]

    def replenish_routed() -> None:
        known = len(quic._host_cids)
        replenish()
        for added in quic._host_cids[known:]:
            added.cid = routed(added.cid)

    first = quic._host_cids[0]
    first.cid = quic.host_cid = quic._local_initial_source_connection_id = routed(first.cid)
    quic._replenish_connection_ids = replenish_routed


class _Server(QuicServer):
    """aioquic's server, extended to report ended connections and to accept clients the demultiplexer sent a Retry."""

    def __init__(self, on_ended: Callable[[QuicConnectionProtocol], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_ended = on_ended

    def receive(self, datagram: bytes, peer: NetworkAddress, original_cid: bytes | None) -> None:
        """Process a datagram; `original_cid` is set if the client was sent a Retry."""
        if original_cid is None and self._begins_after_retry(datagram):
            return  # without the original connection ID, the client would reject our transport parameters
        self._retry = cast("Any", None if original_cid is None else _Retried(original_cid, datagram))
        self.datagram_received(datagram, peer)

    def _begins_after_retry(self, datagram: bytes) -> bool:
        """Return whether `datagram` begins a connection whose client was sent a Retry by the demultiplexer."""
        try:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=_CID_LENGTH)
        except ValueError:
            return False
        return header.token.startswith(RETRY_TOKEN) and header.destination_cid not in self._protocols

    def connection_of(self, datagram: bytes) -> QuicConnectionProtocol | None:
        """Return the connection that `datagram` belongs to, by its destination connection ID."""
        if datagram[0] & 0x80:
            return self._protocols.get(datagram[6 : 6 + datagram[5]]) if len(datagram) > 6 else None
        return self._protocols.get(datagram[1 : 1 + _CID_LENGTH])

    def _connection_terminated(self, protocol: QuicConnectionProtocol) -> None:
        super()._connection_terminated(protocol)
        self._on_ended(protocol)


class _Retried:
    """Replaces aioquic's handler of Retry tokens, for a token that the demultiplexer has validated."""

    def __init__(self, original_cid: bytes, datagram: bytes) -> None:
        self._original_cid = original_cid
        self._retry_cid = datagram[6 : 6 + datagram[5]]  # RFC 9000 section 17.2: chosen by the Retry

    def validate_token(self, *positional: object, **_: object) -> bytes | tuple[bytes, bytes]:
        """Return the destination connection ID of the client's first Initial; for aioquic 1.6, the Retry's too."""
        return (self._original_cid, self._retry_cid) if positional else self._original_cid


class _Transport(asyncio.DatagramTransport):
    """The transport on which aioquic sends."""

    def __init__(self, server: DemuxServer) -> None:
        super().__init__()
        self._server = server

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send `data` to `addr`."""
        self._server.send(data, addr)

    def close(self) -> None:
        """Do nothing: the DemuxServer closes the sockets."""
