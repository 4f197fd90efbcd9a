"""A forwarded flow: the sockets and connection IDs of one client's connection to one server, and the limits of all."""

import os
import re
import socket
import struct
from dataclasses import dataclass, field, replace

from handshaked.callers.threads import Threads
from handshaked.demux.shared_port import LocalSocket
from handshaked.quic.packets import LongHeader, pull_long_header
from handshaked.wire.addresses import Address, family_of

_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LONGEST_HEADER = 64  # more than a long header up to its source connection ID takes


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
        "first_cid",
        "header",
        "last_active",
        "local",
        "marks",
        "origin",
        "paths",
        "peer",
        "prefix",
        "server_socket",
        "source",
        "target",
        "threads",
    )

    def __init__(self, local: LocalSocket, peer: Address, server_socket: socket.socket) -> None:
        self.local = local
        self.peer = peer
        self.client_socket: socket.socket | None = None  # None: on the shared socket
        self.server_socket = server_socket
        self.target: Address | None = None  # None: an application's end of a socket pair
        self.prefix = b""  # PROXY protocol header, until the server has answered
        self.header: LongHeader | None = None  # of the client's Initial, until the server has answered
        self.first_cid: bytes | None = None  # the destination of the client's first Initial; None on later paths
        self.cids: list[bytes] = []
        self.current_cid = b""
        self.established = False
        self.last_active = 0.0
        self.origin: ForwardedFlow | None = None  # the flow of the connection's first path
        self.paths = 1  # open paths of this connection; counted at its origin
        self.source = ""
        self.marks: dict[socket.socket, int] = {}  # the ECN marks that the sockets set
        self.threads: Threads | None = None  # of the application

    def knows(self, datagram: bytes | memoryview) -> bool:
        """Return whether `datagram` from the client carries a known connection ID of this connection."""
        if datagram[0] & 0x80:
            header = pull_long_header(bytes(datagram[:_LONGEST_HEADER]))
            return header is None or header.destination_cid in (self.first_cid, self.current_cid, *self.cids)
        start = bytes(datagram[1:_LONGEST_HEADER])
        return any(cid and start.startswith(cid) for cid in (self.current_cid, *self.cids))


def proxy_header(peer: Address, local: Address) -> bytes:
    """Return a PROXY protocol v2 header for a datagram from `peer` to `local`."""
    family = family_of(peer)
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    hosts = b"".join(socket.inet_pton(family, str(address[0]).partition("%")[0]) for address in (peer, local))
    body = hosts + struct.pack("!HH", peer[1], local[1])
    return _PROXY_SIGNATURE + bytes([0x21, kind]) + struct.pack("!H", len(body)) + body
