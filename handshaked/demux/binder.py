"""The binder: opens UDP sockets for a demultiplexer that has neither the right to bind its port nor a network.

The demultiplexer parses what strangers send; this process parses its requests only, of a fixed size. It binds sockets
to ports of which the demultiplexer holds a socket already, from systemd: others it could not have got. The sockets of
flows come connected to a port of this machine that nobody sends from, because an unconnected one would receive the
first datagrams to each local address.
"""

import errno
import logging
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.callers.log_limit import LogLimit
from handshaked.demux.binder_packets import REQUEST_SIZE, Kind, Request, pull_request, push_answer
from handshaked.demux.sockets import OwnSockets
from handshaked.errors import FramingError
from handshaked.system.systemd import notify
from handshaked.wire.addresses import Address, any_address, family_of, show_address
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors

log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MAX_CONNECTIONS = 16
_BEAT_SECONDS = 1.0
_PEER_CREDENTIALS = struct.Struct("=iII")
_SO_NETNS_COOKIE = 71
_COOKIE_SIZE = 8
_UNUSED_PORT = 1
_REFUSALS_LOGGED = 20  # in ten seconds, for each user: a compromised demultiplexer can ask as often as it likes
_NO_COMPARISON = "this kernel cannot tell network namespaces apart (SO_NETNS_COOKIE, Linux 5.14)"


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection of the demultiplexer, and the addresses of the sockets that it has shown last."""

    sock: socket.socket
    shown: set[Address] = field(default_factory=set)


class Binder:
    """Serves the connections of `listener` that come from root or from the owner of the socket's file."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._allowed = {0, os.stat(listener.getsockname()).st_uid}
        self._sockets = OwnSockets()
        self._network = _network_of(listener)
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._ended = False
        self._log_limit = LogLimit(_REFUSALS_LOGGED, call_later=self._call_later)
        self._due: list[tuple[float, Callable[[], None]]] = []
        if self._network is None:
            log.error("sockets of shared ports are refused: %s", _NO_COMPARISON)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in _END_SIGNALS:
            signal.signal(number, self._end)
        notify(READY="1")
        beat = time.monotonic()
        while not self._ended:
            for key, _ in self._selector.select(_BEAT_SECONDS):
                if isinstance(key.data, _Connection):
                    self._serve(key.data)
                else:
                    self._accept()
            if time.monotonic() >= beat + _BEAT_SECONDS:
                beat = time.monotonic()
                notify(WATCHDOG="1")
                self._run_due()
        self._log_limit.report_dropped()
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        for number in _END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a process that ends anyway is not killed, see system/signals.py

    def _end(self, *_: object) -> None:
        self._ended = True

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, call))

    def _run_due(self) -> None:
        now = time.monotonic()
        due = [call for when, call in self._due if when <= now]
        self._due = [later for later in self._due if later[0] > now]
        for call in due:
            call()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            log.warning("cannot accept a connection: %s", error.strerror)
            time.sleep(_BEAT_SECONDS)  # such as a lack of descriptors: the selector would report it again at once
            return
        _, uid, _ = _PEER_CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid not in self._allowed or len(self._connections) >= _MAX_CONNECTIONS:
            if self._log_limit.allows(f"uid {uid}"):
                reason = "too many connections" if uid in self._allowed else "not permitted"
                log.warning("uid %d is refused: %s", uid, reason)
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _serve(self, connection: _Connection) -> None:
        """Answer one request; close the connection if it is malformed, or if the answer cannot be sent."""
        try:
            packet, control, _, _ = connection.sock.recvmsg(REQUEST_SIZE + 1, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
            descriptors = pull_descriptors(control)
            try:
                if not packet:
                    raise FramingError("closed")
                request = pull_request(packet)
                if request.kind is Kind.SHOW:
                    connection.shown = {found for one in descriptors if (found := self._address_of(one)) is not None}
            finally:
                close_all(descriptors)
            self._answer(connection, request)
        except (FramingError, OSError) as error:
            log.debug("a connection ends: %s", error)
            self._close(connection)

    def _answer(self, connection: _Connection, request: Request) -> None:
        status = 0
        with ExitStack() as made:
            sockets: list[socket.socket] = []
            try:
                for _ in range(request.count):
                    sockets.append(made.enter_context(self._open(connection, request)))  # noqa: PERF401 - some may fail
            except OSError as error:
                status = 0 if sockets else error.errno or errno.EIO
            control = push_descriptors(sock.fileno() for sock in sockets)
            connection.sock.sendmsg([push_answer(request, status)], control, socket.MSG_NOSIGNAL)

    def _open(self, connection: _Connection, request: Request) -> socket.socket:
        family, port = family_of(request.address), request.address[1]
        if request.kind is Kind.UNBOUND:
            return self._sockets.unbound(family)
        if request.kind is Kind.SHARED:
            self._check(connection, request.address, request.address, any_address(family, port))
            return self._sockets.shared(request.address)
        held = [one for one in connection.shown if family_of(one) == family and one[1] == port]
        self._check(connection, request.address, *held)
        sock = self._sockets.for_flow(family, port)
        try:
            sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", _UNUSED_PORT))
        except OSError:
            sock.close()
            raise
        return sock

    def _check(self, connection: _Connection, wanted: Address, *proofs: Address) -> None:
        """Refuse the port of `wanted` unless one of the addresses `proofs` has been shown."""
        if not wanted[1] or connection.shown.isdisjoint(proofs):
            if self._log_limit.allows("the demultiplexer"):
                reason = _NO_COMPARISON if self._network is None else "the demultiplexer has no socket there"
                log.warning("%s is refused: %s", show_address(wanted), reason)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _address_of(self, descriptor: int) -> Address | None:
        """Return the address of a UDP socket of this network namespace; None for other files and unknown namespaces."""
        if self._network is None:
            return None
        try:
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                is_udp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_DGRAM
                address: Address = sock.getsockname()
                return address if is_udp and _network_of(sock) == self._network else None
        except OSError:
            return None


def serve(listener: socket.socket) -> None:
    """Serve at `listener` until SIGTERM or SIGINT."""
    log.info("opening sockets for the demultiplexer at %s", Path(listener.getsockname()))
    Binder(listener).run()


def _network_of(sock: socket.socket) -> bytes | None:
    """Return what identifies the network namespace of `sock`; None before Linux 5.14."""
    with suppress(OSError):
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_SIZE)
    return None
