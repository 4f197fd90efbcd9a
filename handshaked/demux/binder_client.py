"""Sockets that the binder opens for this process, which holds a few of each kind in stock.

The event loop waits for the binder only when the stock is used up, at most ``WAIT_SECONDS``, and not again until the
binder has answered: one that hangs costs new flows their own sockets, and no flow its datagrams.
"""

import ctypes
import logging
import os
import select
import socket
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

from handshaked.demux.binder_packets import (
    ANSWER_SIZE,
    LATE,
    MAX_SOCKETS,
    Kind,
    Request,
    pull_answer,
    push_request,
)
from handshaked.demux.sockets import set_receive_buffer
from handshaked.errors import FramingError
from handshaked.system.connecting import connect
from handshaked.wire.addresses import Address, any_address
from handshaked.wire.attached import CONTROL_SPACE, MAX_ATTACHED, close_all, pull_descriptors, push_descriptors

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_UNSPECIFIED = bytes(16)  # struct sockaddr of the family AF_UNSPEC
_libc = ctypes.CDLL(None, use_errno=True)


class BinderSockets:
    """Gets sockets from the binder at `path`, which it shows the sockets `held` of the shared ports.

    It waits for up to `wait_seconds` when the stock is used up.
    """

    def __init__(self, path: Path, held: Sequence[socket.socket], wait_seconds: float = WAIT_SECONDS) -> None:
        self.failures = 0
        self.waits = 0
        """The number of times that the event loop has waited for the binder."""
        self._path = path
        self._wait_seconds = wait_seconds
        self._held = held[:MAX_ATTACHED]
        self._channel: socket.socket | None = None
        self._stock: defaultdict[Request, deque[socket.socket]] = defaultdict(deque)
        self._asked: set[Request] = set()
        self._refused: dict[Request, OSError] = {}
        self._retry_at = 0.0
        self._awaited: Request | None = None
        self._late = False
        self._complained = False

    def unbound(self, family: int) -> socket.socket:
        """Return an unbound socket."""
        return self._take(Request(Kind.UNBOUND, MAX_SOCKETS, any_address(family)))

    def for_flow(self, family: int, port: int) -> socket.socket:
        """Return a socket bound to `port` at the wildcard address, to be connected to a client."""
        sock = self._take(Request(Kind.FLOW, MAX_SOCKETS, any_address(family, port)))
        if _libc.connect(sock.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) != 0:  # from where the binder connected it to
            number = ctypes.get_errno()
            sock.close()
            raise OSError(number, os.strerror(number))
        return sock

    def shared(self, address: Address) -> socket.socket:
        """Return a shared socket at `address`."""
        sock = self._take(Request(Kind.SHARED, 1, address))
        set_receive_buffer(sock)
        return sock

    def fill(self, seconds: float) -> None:
        """Take sockets into stock, and wait for the binder for up to `seconds`: it may be starting."""
        wanted = [Request(Kind.FLOW, MAX_SOCKETS, any_address(one.family, one.getsockname()[1])) for one in self._held]
        wanted += [Request(Kind.UNBOUND, MAX_SOCKETS, any_address(one)) for one in (socket.AF_INET, socket.AF_INET6)]
        end = time.monotonic() + seconds
        for request in wanted:
            self._ask(request)
            self._wait(request, end - time.monotonic())

    def refresh(self) -> None:
        """Receive late answers; a shared socket among them, which nobody reads any more, must not stay open."""
        self._receive()

    def close(self) -> None:
        """Close the connection and the sockets in stock."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for stock in self._stock.values():
            for sock in stock:
                sock.close()
        self._stock.clear()

    def _take(self, request: Request) -> socket.socket:
        self._receive()
        self._refused.pop(request, None)
        if len(self._stock[request]) <= request.count // 2:
            self._ask(request)
        if not self._stock[request] and request in self._asked and not self._late:
            self.waits += 1
            self._wait(request, self._wait_seconds)
        try:
            sock = self._stock[request].popleft()
        except IndexError:
            self.failures += 1
            error = self._refused.pop(request, None) or OSError(LATE, "the binder does not answer")
            self._complain(error)
            raise error from None
        finally:
            if not self._stock[request]:
                del self._stock[request]
        return sock

    def _ask(self, request: Request) -> None:
        if request in self._asked or not self._connect():
            return
        try:
            self._send(request)
        except OSError as error:
            self._lose(error)

    def _send(self, request: Request, attached: Sequence[socket.socket] = ()) -> None:
        if self._channel is None:
            return
        control = push_descriptors(sock.fileno() for sock in attached)
        self._channel.sendmsg([push_request(request)], control, socket.MSG_NOSIGNAL)
        self._asked.add(request)

    def _connect(self) -> bool:
        if self._channel is not None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connect(self._channel, self._path)
            self._send(Request(Kind.SHOW, 0, any_address(socket.AF_INET)), self._held)
        except OSError as error:
            self._lose(error)
            return False
        return True

    def _lose(self, error: Exception) -> None:
        """Close the connection. The sockets in stock stay usable."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._asked.clear()
        self._late = False
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            log.warning("no sockets from %s, new connections share one: %s", self._path, error)
        self._complained = True

    def _wait(self, request: Request, seconds: float) -> None:
        """Receive answers until that to `request` is among them, for up to `seconds`."""
        self._awaited = request
        end = time.monotonic() + seconds
        while self._channel is not None and request in self._asked:
            left = end - time.monotonic()
            if left <= 0:
                self._late = True
                break
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            poll.poll(left * 1000)
            self._receive()
        self._awaited = None

    def _receive(self) -> None:
        """Receive the answers that have arrived."""
        while self._channel is not None:
            try:
                packet, control, _, _ = self._channel.recvmsg(ANSWER_SIZE + 1, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
                return
            descriptors = pull_descriptors(control)
            try:
                request, refusal = pull_answer(packet)
            except FramingError as malformed:
                close_all(descriptors)
                self._lose(malformed if packet else ConnectionResetError("the binder has ended"))
                return
            if request.kind is Kind.SHARED and request != self._awaited:
                close_all(descriptors)
            else:
                self._stock[request].extend(socket.socket(fileno=one) for one in descriptors)
            self._on_answer(request, refusal)

    def _on_answer(self, request: Request, refusal: OSError | None) -> None:
        self._asked.discard(request)
        self._late = False
        if refusal is not None:
            self._refused[request] = refusal
        elif self._complained and request.count:
            self._complained = False
            log.info("the binder answers again")
