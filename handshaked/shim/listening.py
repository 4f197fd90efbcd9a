"""An asyncio client of ``handshaked-demux``, through which an application accepts connections on a shared UDP port.

When the demultiplexer restarts, accepted connections continue and this client reconnects by itself. It asks for the
same route again, so that connection IDs stay valid.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path

from handshaked.errors import FramingError
from handshaked.system import directories
from handshaked.system.connecting import connect
from handshaked.wire.attached import pull_descriptors
from handshaked.wire.demux import (
    MAX_PACKET,
    Datagram,
    Flow,
    FromDemux,
    Listen,
    Listening,
    Release,
    pull_from_demux,
    push_listen,
    push_path,
    push_release,
)
from handshaked.wire.demux import Path as FlowPath
from handshaked.wire.messages import Refused

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 0.02
_LONGEST_BACKOFF = 0.5


class DemuxClient:
    """Accepts the connections for `registrations`.

    `on_flow` is called with each new connection, or new path of a connection, and its socket, which the callee owns.
    `on_datagram` is called with each datagram of an existing connection that arrived from a new address. `path` is the
    demultiplexer's socket (default: the user's own demultiplexer if there is one, else the system's).

    All connection IDs that the application issues must begin with ``route`` (4 bytes; None until ``start`` has
    returned). ``held`` counts the sockets received and not yet released.
    """

    def __init__(
        self,
        registrations: tuple[str, ...],
        on_flow: Callable[[Flow, socket.socket], None],
        on_datagram: Callable[[Datagram], None] = lambda _: None,
        path: Path | None = None,
    ) -> None:
        self.route: bytes | None = None
        self.held = 0
        self._registrations = registrations
        self._on_flow = on_flow
        self._on_datagram = on_datagram
        self._path = path or directories.demux_socket()
        self._loop = asyncio.get_running_loop()
        self._sequences = count(1)
        self._sock: socket.socket | None = None
        self._backoff = _FIRST_BACKOFF
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._reconnection: asyncio.TimerHandle | None = None
        self._closed = False

    async def start(self) -> None:
        """Connect, and return once the demultiplexer has accepted all registrations.

        OSError if it cannot be reached; PermissionError if it refuses a registration.
        """
        self._connect()
        try:
            await asyncio.gather(*self._listen())
        except BaseException:  # raised again: even after a cancellation, nothing may reconnect
            self.close()
            raise

    def close(self) -> None:
        """Stop accepting connections. The sockets of accepted ones stay open."""
        self._closed = True
        if self._reconnection is not None:
            self._reconnection.cancel()
        self._disconnect()

    def release(self) -> None:
        """Report that the application closed a flow's socket."""
        self.held -= 1
        self._send(push_release(Release(1)))

    def ask_for_path(self, peer: str, local: str) -> None:
        """Request a socket connected to `peer`; it arrives as a flow. Addresses as in ``Datagram``."""
        self._send(push_path(next(self._sequences), FlowPath(peer, local)))

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connect(sock, self._path)
        except OSError:
            sock.close()
            raise
        self._sock = sock
        self._loop.add_reader(sock, self._read)

    def _listen(self) -> list[asyncio.Future[None]]:
        futures = []
        for registration in self._registrations:
            sequence = next(self._sequences)
            future = self._waiting[sequence] = self._loop.create_future()
            futures.append(future)
            self._send(push_listen(sequence, Listen(registration, self.route, self.held)))
        return futures

    def _read(self) -> None:
        connection = self._sock
        if connection is None:
            return
        try:
            packet, control, _, _ = connection.recvmsg(MAX_PACKET, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            packet, control = b"", []
        sockets = [socket.socket(fileno=descriptor) for descriptor in pull_descriptors(control)]
        if not packet:
            self._reconnect_later()
            return
        try:
            for sequence, message in pull_from_demux(packet):
                self._handle(sequence, message, sockets)
                if self._sock is not connection:  # a callback has closed this client
                    break
        except FramingError as error:
            log.error("malformed packet from the demultiplexer: %s", error.reason)
            if self._sock is connection:
                self._reconnect_later()
        finally:
            for sock in sockets:
                sock.close()

    def _handle(self, sequence: int, message: FromDemux, sockets: list[socket.socket]) -> None:
        if isinstance(message, Flow) and sockets:
            sock = sockets.pop(0)
            sock.setblocking(False)
            self.held += 1
            self._on_flow(message, sock)
        elif isinstance(message, Datagram):
            self._on_datagram(message)
        elif isinstance(message, Listening):
            self.route = message.route
            self._backoff = _FIRST_BACKOFF
            self._answer(sequence, None)
        elif isinstance(message, Refused):
            self._answer(sequence, PermissionError(message.error.status, message.error.reason))

    def _answer(self, sequence: int, error: OSError | None) -> None:
        future = self._waiting.pop(sequence, None)
        if future is None or future.done():
            if error is not None:
                log.warning("the demultiplexer refused a request: %s", error.strerror)
        elif error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _send(self, packet: bytes) -> None:
        if self._sock is None:
            return
        try:
            self._sock.send(packet, socket.MSG_NOSIGNAL)
        except OSError as error:
            log.debug("cannot send to the demultiplexer: %s", error)

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the demultiplexer closed the connection"))
        self._waiting.clear()

    def _reconnect_later(self) -> None:
        self._disconnect()
        if not self._closed and self._reconnection is None:
            self._reconnection = self._loop.call_later(self._backoff, self._reconnect)
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    def _reconnect(self) -> None:
        self._reconnection = None
        try:
            self._connect()
        except OSError:
            self._reconnect_later()
            return
        for future in self._listen():
            future.add_done_callback(self._listened_again)

    def _listened_again(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, PermissionError) and not self._closed:  # else disconnected, and about to reconnect
            log.warning("cannot listen again after reconnecting to the demultiplexer: %s", error)
            self._reconnect_later()
