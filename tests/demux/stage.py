"""A forwarder between a test's client and server, without a demultiplexer around it."""

import select
import socket
from contextlib import ExitStack

from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.forwarded_flow import ForwardedFlow, ForwarderBounds
from handshaked.demux.forwarder import UdpForwarder
from handshaked.demux.shared_port import LocalSocket
from handshaked.demux.sockets import OwnSockets
from handshaked.testing.ports import free_port
from handshaked.wire.addresses import Address
from tests.patience import PATIENCE

NEXT_CID = b"next server"
SERVER_CID, OTHER_CID = b"of server", b"of server too"[:9]


class Stage:
    """A server, the local socket of a shared port, and the table of connection IDs, for flows of a test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.received: list[tuple[bytes, int]] = []
        self.server = self.endpoint()
        self.target: Address = self.server.getsockname()
        self.local = LocalSocket(
            stack.enter_context(OwnSockets().shared(("127.0.0.1", free_port()))), self._receive, lambda _: None
        )
        self.connection_ids: ConnectionIds[object, ForwardedFlow] = ConnectionIds()

    def _receive(self, _: LocalSocket, datagram: bytes, _peer: Address, mark: int) -> None:
        self.received.append((datagram, mark))

    def endpoint(self) -> socket.socket:
        """Open the socket of a client or a server."""
        sock = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        return sock

    def forwarder(self, **bounds: float) -> UdpForwarder:
        """UdpForwarder with the given bounds."""
        made = UdpForwarder(ForwarderBounds(**bounds), self.connection_ids)  # type: ignore[arg-type] # ints and floats, by name
        self._stack.callback(lambda: made.sweep(1e9))
        return made

    def forward(self, forwarder: UdpForwarder, client: socket.socket, now: float = 0.0) -> ForwardedFlow | None:
        """Open a flow for `client`."""
        return forwarder.forward(self.local, client.getsockname(), self.target, "source", now, proxy=False)

    def establish(
        self, forwarder: UdpForwarder, flow: ForwardedFlow, client: socket.socket, cid: bytes = SERVER_CID
    ) -> Address:
        """Exchange datagrams until the flow is established. Return its address as the server sees it."""
        forwarder.from_client(flow, b"\xc0 hello")
        _, address = self.server.recvfrom(100)
        self.server.sendto(b"\xc0\0\0\0\1\0" + bytes([len(cid)]) + cid + b"answer", address)
        self.run(forwarder, client)
        client.sendto(b"\x40" + cid + b"data", self.local.address)
        ready, _, _ = select.select([self.local.socket.fileno(), forwarder.fileno()], [], [], PATIENCE)
        if self.local.socket.fileno() in ready:
            forwarder.receive(flow, self.local.socket.recv(100))
            self.server.recv(100)
        else:
            self.run(forwarder, self.server)
        assert flow.established
        return address  # type: ignore[no-any-return] # a socket address

    def run(self, forwarder: UdpForwarder, receiver: socket.socket) -> bytes:
        """Forward datagrams until `receiver` gets one. Return it."""
        receiver.settimeout(0)
        for _ in range(1_000_000):
            forwarder.run(0.0)
            try:
                return receiver.recv(2000)
            except BlockingIOError:
                continue
        raise AssertionError("no datagram arrived")
