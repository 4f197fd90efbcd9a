"""The shared UDP port: its unconnected sockets, and connected sockets for single flows.

Linux delivers a datagram to the socket connected to its sender, else to one bound to the address it was sent to, else
to one bound to the wildcard address. So each shared socket is bound to one local address, and the socket of a flow is
bound to the wildcard address before it is connected. It receives nothing between the two calls, nor after an
application disconnects it (connect(2) to AF_UNSPEC). A port on the wildcard address also has a wildcard socket, which
receives the first datagram to each local address.

SO_REUSEADDR lets the sockets share the port. SO_REUSEPORT would require one user for all of them and distribute the
datagrams among them.
"""

import errno
import logging
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from handshaked.demux.segmentation import ECN_CONTROL_SIZE, forbid_fragmentation, pull_mark, push_mark, receive_marks
from handshaked.demux.sockets import OwnSockets, Sockets, set_receive_buffer, share
from handshaked.errors import RefusedError
from handshaked.wire.addresses import Address, any_address, family_of, is_any, show_address

log = logging.getLogger(__name__)

_BATCH = 64  # datagrams read per turn of the event loop
_MAX_LOCAL_SOCKETS = 1024
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_UNCONNECTED = 7  # TCP_CLOSE in net/tcp_states.h
_INPUT = memoryview(bytearray(65536))  # one thread reads, one datagram at a time

Receive = Callable[["LocalSocket", bytes, Address, int], None]
"""Called with the socket, the datagram, its sender, and its ECN mark."""
Watch = Callable[[socket.socket, Callable[[], None]], None]


class LocalSocket:
    """The shared socket of one local address. `on_drained` is called when there is nothing left to read."""

    def __init__(
        self,
        sock: socket.socket,
        receive: Receive,
        on_drained: Callable[["LocalSocket"], None],
        sockets: Sockets | None = None,
    ) -> None:
        self.socket = sock
        self._sockets = sockets or OwnSockets()
        self.address: Address = sock.getsockname()
        self.name = show_address(self.address)
        self._receive = receive
        self._on_drained = on_drained
        receive_marks(sock)

    def read(self) -> None:
        """Pass a batch of received datagrams to `receive`."""
        for _ in range(_BATCH):
            try:
                size, control, _, peer = self.socket.recvmsg_into([_INPUT], ECN_CONTROL_SIZE)
            except BlockingIOError:
                self._on_drained(self)
                return
            except OSError as error:  # an ICMP error about a datagram sent earlier
                log.debug("%s: %s", self.name, error)
                continue
            self._receive(self, bytes(_INPUT[:size]), peer, pull_mark(control))

    def send(self, datagram: bytes | memoryview, peer: Address, mark: int = 0) -> None:
        """Send `datagram` with the ECN mark `mark` to `peer`; it is dropped if the send buffer is full."""
        try:
            if mark:
                self.socket.sendmsg([datagram], push_mark(self.socket, mark), 0, peer)
            else:
                self.socket.sendto(datagram, peer)
        except OSError as error:
            log.debug("%s to %s: %s", self.name, show_address(peer), error)

    def open_flow(self, peer: Address) -> socket.socket | None:
        """Return a socket connected to `peer`; None if its source address would differ from this one, or on errors."""
        try:
            sock = self._sockets.for_flow(family_of(self.address), self.address[1])
        except OSError as error:
            log.debug("no socket for %s: %s", show_address(peer), error)
            return None
        try:
            sock.connect(peer)
            if sock.getsockname()[0].partition("%")[0] == self.address[0].partition("%")[0]:
                return sock
        except OSError as error:
            log.debug("no socket for %s: %s", show_address(peer), error)
        sock.close()
        return None


class SharedPort:
    """A shared port, at one address or at the wildcard address.

    `watch` registers the reader of a socket, `sockets` opens further ones.
    """

    def __init__(
        self,
        sock: socket.socket,
        watch: Watch,
        receive: Receive,
        on_drained: Callable[[LocalSocket], None],
        sockets: Sockets | None = None,
    ) -> None:
        self._sockets = sockets or OwnSockets()
        self.address: Address = sock.getsockname()
        self._watch = watch
        self._receive = receive
        self._on_drained = on_drained
        self._locals: dict[tuple[str, int], LocalSocket] = {}
        self._failure_logged = False
        self._socket = sock
        if is_any(self.address):
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            receive_marks(sock)
            watch(sock, self._read_any)
        else:
            self._add(self.address, sock)

    def local(self, address: Address) -> LocalSocket | None:
        """Return the socket of the local address `address`; None if `address` is not one of this port."""
        if address[1] != self.address[1] or family_of(address) != family_of(self.address):
            return None
        local = self._locals.get(_host(address))
        return local or (self._open(address) if is_any(self.address) else None)

    def is_at(self, address: Address) -> bool:
        """Return whether datagrams sent to `address` arrive at this port."""
        if address[1] != self.address[1] or family_of(address) != family_of(self.address):
            return False
        if not is_any(self.address):
            return _host(address) == _host(self.address)
        return _host(address) in self._locals or self._is_ours(address)

    def _is_ours(self, address: Address) -> bool:
        """Return whether `address` is one of this machine's."""
        try:
            with self._sockets.unbound(family_of(address)) as probe:
                probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
        return True

    def _add(self, address: Address, sock: socket.socket) -> LocalSocket:
        local = self._locals[_host(address)] = LocalSocket(sock, self._receive, self._on_drained, self._sockets)
        self._watch(sock, local.read)
        return local

    def _open(self, address: Address) -> LocalSocket | None:
        try:
            if len(self._locals) >= _MAX_LOCAL_SOCKETS:
                raise OSError(f"too many local addresses (limit: {_MAX_LOCAL_SOCKETS})")
            return self._add(address, self._sockets.shared(address))
        except OSError as error:
            if not self._failure_logged:  # once: every datagram of a client would log it
                log.warning("cannot listen on %s, its datagrams are dropped: %s", show_address(address), error)
            self._failure_logged = True
            return None

    def _read_any(self) -> None:
        for _ in range(_BATCH):
            try:
                size, control, _, peer = self._socket.recvmsg_into([_INPUT], 64 + ECN_CONTROL_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("%s: %s", show_address(self.address), error)
                continue
            datagram = bytes(_INPUT[:size])
            local = self.local(self._destination(control))
            if local is not None:
                self._receive(local, datagram, peer, pull_mark(control))

    def _destination(self, control: list[tuple[int, int, bytes]]) -> Address:
        for level, kind, payload in control:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                return socket.inet_ntop(socket.AF_INET, _PKTINFO.unpack_from(payload)[2]), self.address[1]
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                address, interface = _PKTINFO6.unpack_from(payload)
                scope = interface if address[:2] == b"\xfe\x80" else 0
                return socket.inet_ntop(socket.AF_INET6, address), self.address[1], 0, scope
        return self.address


def take_shared(sock: socket.socket) -> socket.socket:
    """Prepare the inherited `sock` for sharing. RefusedError if it is dual-stack: the sockets of flows are not."""
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise RefusedError(
            f"the socket at {show_address(sock.getsockname())} also receives IPv4: "
            "set BindIPv6Only=ipv6-only and add a socket for IPv4"
        )
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    forbid_fragmentation(sock)
    return sock


def _host(address: Address) -> tuple[str, int]:
    """Return host and interface of `address`: link-local addresses are unique to an interface only."""
    return str(address[0]).partition("%")[0], address[3] if len(address) > 2 else 0


def claim_shared(address: Address) -> socket.socket:
    """Open the shared socket of a port. OSError(EADDRINUSE) if another process receives at `address`.

    Connected sockets of connections accepted before a restart may still use the port.
    """
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)  # without SO_REUSEADDR: nobody else can come in between
        share(sock)
        set_receive_buffer(sock)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE or _is_served(address):
            raise
        return OwnSockets().shared(address)
    return sock


def _is_served(address: Address) -> bool:
    """Return whether an unconnected socket receives datagrams to `address` (udp(7), proc_pid_net(5))."""
    family = family_of(address)
    hosts = {socket.inet_pton(family, host) for host in (_host(address)[0], any_address(family)[0])}
    table = Path("/proc/self/net/udp6" if family == socket.AF_INET6 else "/proc/self/net/udp")
    for line in table.read_text().splitlines()[1:]:
        local, _, state = line.split()[1:4]
        host, _, port = local.partition(":")
        words = (int(host[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(host), 8))
        if int(port, 16) == address[1] and int(state, 16) == _UNCONNECTED and b"".join(words) in hosts:
            return True
    return False
