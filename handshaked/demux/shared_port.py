"""The shared UDP port: sockets that get what no flow's own socket gets, and the making of those.

Linux gives a datagram to the socket that is connected to its sender, else to one bound to the very address it was
sent to, else to one bound to any address. So the shared sockets are bound to one address each, and a flow's socket is
bound to any address before it is connected: between those two calls nothing reaches it, and an application that
disconnects its socket (connect(2) to AF_UNSPEC) hears nothing of others. A port shared at any address has a socket
for that as well, on which the first datagram to each address comes in.

SO_REUSEADDR lets the sockets share the port. (SO_REUSEPORT would not do: it wants one user for all of them, and shares
datagrams out among them.)
"""

import logging
import socket
import struct
from collections.abc import Callable

from handshaked.errors import RefusedError
from handshaked.wire.addresses import Address, family_of, show_address

log = logging.getLogger(__name__)

_BATCH = 64  # datagrams read before others get their turn
_BUFFER = 4 * 1024 * 1024
_MAX_LOCALS = 1024
_IP_PKTINFO = 8
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_PKTINFO = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_INPUT = memoryview(bytearray(65536))  # one thread reads, one datagram at a time

Receive = Callable[["LocalSocket", bytes, Address], None]
Watch = Callable[[socket.socket, Callable[[], None]], None]


class LocalSocket:
    """One local address of a shared port. ``on_drained`` is called when there is nothing left to read."""

    def __init__(self, sock: socket.socket, receive: Receive, on_drained: Callable[["LocalSocket"], None]) -> None:
        self.socket = sock
        self.address: Address = sock.getsockname()
        self.name = show_address(self.address)
        self._receive = receive
        self._on_drained = on_drained

    def read(self) -> None:
        """Hand over a batch of what has come in."""
        for _ in range(_BATCH):
            try:
                size, peer = self.socket.recvfrom_into(_INPUT)
            except BlockingIOError:
                self._on_drained(self)
                return
            except OSError as error:  # what a peer's ICMP says of an earlier answer
                log.debug("%s: %s", self.name, error)
                continue
            self._receive(self, bytes(_INPUT[:size]), peer)

    def send(self, datagram: bytes | memoryview, peer: Address) -> None:
        """Send to `peer`, if there is room."""
        try:
            self.socket.sendto(datagram, peer)
        except OSError as error:
            log.debug("%s to %s: %s", self.name, show_address(peer), error)

    def open_flow(self, peer: Address) -> socket.socket | None:
        """A socket of its own for `peer`; None if the system would not answer from this address, or has none left."""
        family = family_of(self.address)
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            log.debug("no socket for %s: %s", show_address(peer), error)
            return None
        try:
            _share(sock)
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", self.address[1]))  # noqa: S104 - see above
            sock.connect(peer)
            if sock.getsockname()[0].partition("%")[0] == self.address[0].partition("%")[0]:
                return sock
        except OSError as error:
            log.debug("no socket for %s: %s", show_address(peer), error)
        sock.close()
        return None


class SharedPort:
    """A shared port at one address or at all. `watch` has a socket read when it is readable."""

    def __init__(
        self, sock: socket.socket, watch: Watch, receive: Receive, on_drained: Callable[[LocalSocket], None]
    ) -> None:
        self.address: Address = sock.getsockname()
        self._watch = watch
        self._receive = receive
        self._on_drained = on_drained
        self._locals: dict[tuple[str, int], LocalSocket] = {}
        self._said_failure = False
        self._socket = sock
        if self.address[0] in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            watch(sock, self._read_any)
        else:
            self._add(self.address, sock)

    def local(self, address: Address) -> LocalSocket | None:
        """The local address `address` of this port; None if it is none."""
        if address[1] != self.address[1] or family_of(address) != family_of(self.address):
            return None
        local = self._locals.get(_host(address))
        return local or (self._open(address) if self.address[0] in ("0.0.0.0", "::") else None)  # noqa: S104 - compared

    def is_at(self, address: Address) -> bool:
        """Whether what is sent to `address` comes here."""
        if address[1] != self.address[1] or family_of(address) != family_of(self.address):
            return False
        if self.address[0] not in ("0.0.0.0", "::"):  # noqa: S104 - compared
            return _host(address) == _host(self.address)
        return _host(address) in self._locals or _is_ours(address)

    def _add(self, address: Address, sock: socket.socket) -> LocalSocket:
        local = self._locals[_host(address)] = LocalSocket(sock, self._receive, self._on_drained)
        self._watch(sock, local.read)
        return local

    def _open(self, address: Address) -> LocalSocket | None:
        try:
            if len(self._locals) >= _MAX_LOCALS:
                raise OSError(f"there are {_MAX_LOCALS} addresses already")
            return self._add(address, open_shared(address))
        except OSError as error:
            if not self._said_failure:  # whoever sends datagrams brings this about, each time
                log.warning("cannot listen at %s, and drops what comes there: %s", show_address(address), error)
            self._said_failure = True
            return None

    def _read_any(self) -> None:
        for _ in range(_BATCH):
            try:
                size, control, _, peer = self._socket.recvmsg_into([_INPUT], 64)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("%s: %s", show_address(self.address), error)
                continue
            datagram = bytes(_INPUT[:size])
            local = self.local(self._destination(control))
            if local is not None:
                self._receive(local, datagram, peer)

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
    """The inherited `sock`, ready to be shared. RefusedError if it takes IPv4 as IPv6: no flow's socket does."""
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise RefusedError(
            f"the socket at {show_address(sock.getsockname())} takes IPv4 as well: "
            "set BindIPv6Only=ipv6-only, and add a socket for IPv4"
        )
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _host(address: Address) -> tuple[str, int]:
    """What of `address` tells local addresses apart: link-local ones are those of an interface."""
    return str(address[0]).partition("%")[0], address[3] if len(address) > 2 else 0


def _is_ours(address: Address) -> bool:
    """Whether this machine has `address`."""
    try:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


def open_shared(address: Address) -> socket.socket:
    """A shared socket at `address`."""
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _share(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # QUIC packets are not to be fragmented (RFC 9000 section 14); what is too long is refused, or lost.
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
