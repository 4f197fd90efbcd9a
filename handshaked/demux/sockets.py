"""Sources of the UDP sockets of flows: this process, or the binder, which opens them for it (``binder_client``)."""

import socket
from typing import Protocol

from handshaked.demux.segmentation import forbid_fragmentation
from handshaked.wire.addresses import Address, any_address, family_of

_RECEIVE_BUFFER = 4 * 1024 * 1024


class Sockets(Protocol):
    """Opens non-blocking sockets that send no fragments. OSError if one cannot be had."""

    failures: int
    """The number of sockets that could not be had."""

    def unbound(self, family: int) -> socket.socket:
        """Return an unbound socket."""
        ...

    def for_flow(self, family: int, port: int) -> socket.socket:
        """Return a socket bound to the shared port `port` at the wildcard address, to be connected to a client."""
        ...

    def shared(self, address: Address) -> socket.socket:
        """Return a shared socket at `address`."""
        ...

    def refresh(self) -> None:
        """Do what is due every second."""
        ...


class OwnSockets:
    """Opens the sockets in this process."""

    failures = 0

    def unbound(self, family: int) -> socket.socket:
        """Return an unbound socket."""
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            forbid_fragmentation(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def for_flow(self, family: int, port: int) -> socket.socket:
        """Return a socket bound to `port` at the wildcard address, to be connected to a client."""
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            share(sock)
            sock.bind(any_address(family, port))  # see shared_port
        except OSError:
            sock.close()
            raise
        return sock

    def shared(self, address: Address) -> socket.socket:
        """Return a shared socket at `address`."""
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            share(sock)
            set_receive_buffer(sock)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock

    def refresh(self) -> None:
        """Do nothing: there is no stock to look after."""


def share(sock: socket.socket) -> None:
    """Let `sock` share its port, for one IP version if it is not bound yet."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    forbid_fragmentation(sock)
    if sock.family == socket.AF_INET6 and not sock.getsockname()[1]:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def set_receive_buffer(sock: socket.socket) -> None:
    """Give the shared socket `sock` a large receive buffer."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
