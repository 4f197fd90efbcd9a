"""The connection to the kernel's family ``handshake``: resolves and probes it, sends commands, reconnects.

The family may appear later, or disappear and return; the controller announces that. Every command gets exactly one
answer: ``LOST`` if the connection breaks or the answer does not arrive in time.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from handshaked.errors import FramingError, Status
from handshaked.system.readiness import Readiness
from handshaked.upcall.kernel_messages import (
    MAX_MESSAGE,
    Acknowledgement,
    Family,
    FamilyChange,
    FromKernel,
    Ready,
    pull_from_kernel,
    push_done,
    push_get_family,
)

log = logging.getLogger(__name__)

LOST = Acknowledgement(Status.NOT_CONNECTED)
"""Stands for the answer to a command when it will not arrive."""
NO_FAMILY = "the kernel has no netlink family 'handshake' (needs CONFIG_NET_HANDSHAKE, Linux 6.4)"


class Link(Protocol):
    """A link to the family: a socket for commands and one for events, both non-blocking."""

    commands: socket.socket
    events: socket.socket

    @property
    def stale(self) -> bool:
        """True if its network namespace was deleted or replaced."""
        ...

    def join(self, group: int) -> None:
        """Subscribe to the events of a multicast group."""
        ...

    def close(self) -> None:
        """Close both sockets."""
        ...


class Listener(Protocol):
    """The callbacks of the connection's owner."""

    def serving(self) -> None:
        """The family is available (again); it has forgotten earlier commands."""
        ...

    def ready(self) -> None:
        """Requests may be pending."""
        ...

    def unexpected(self, message: FromKernel) -> None:
        """An answer arrived after its command had been given up."""
        ...


Push = Callable[[int, int], bytes]
"""Encodes a command, given the family's number and a sequence number."""
Then = Callable[[FromKernel], None]


class Connection:
    """Connects with `open_link`; the timeout of answers is `answer` seconds, and failures are retried after `retry`."""

    def __init__(self, open_link: Callable[[], Link], listener: Listener, *, answer: float, retry: float) -> None:
        self._open_link = open_link
        self._listener = listener
        self._answer_seconds = answer
        self._retry_seconds = retry
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._commands: Readiness | None = None
        self._events: Readiness | None = None
        self._family: Family | None = None
        self._sequence = 0
        self._waiting: dict[int, Then] = {}
        self._unanswered: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._stale_check: asyncio.TimerHandle | None = None
        self._closed = False
        self.takes_tags = False
        self.state = "not connected"

    @property
    def is_serving(self) -> bool:
        """True if commands can be sent."""
        return self.state == "serving"

    def connect(self) -> None:
        """Open the link and resolve the family; reconnect as needed until ``close``."""
        self._retry = None
        try:
            self._link = self._open_link()
        except OSError as error:
            self._retry_later(f"no netlink: {error.strerror}", self.connect)
            return
        self._commands = self._watch(self._link.commands)
        self._events = self._watch(self._link.events)
        self._stale_check = self._loop.call_later(self._retry_seconds, self._check_stale)
        self._resolve()

    def _watch(self, sock: socket.socket) -> Readiness:
        readiness = Readiness(sock, "the kernel", partial(self._read, sock))
        readiness.start()
        return readiness

    def leave_events(self) -> None:
        """Stop receiving events, so that requests go to others; commands still work."""
        self._closed = True
        if self._events is not None:
            self._events.stop()

    def receive_pending(self) -> None:
        """Receive the available answers: the kernel queues them while a command is sent."""
        if self._link is not None:
            self._read(self._link.commands)

    def close(self) -> None:
        """Close the link; outstanding commands get LOST."""
        self._closed = True
        self._disconnect("stopped")

    def command(self, push: Push, then: Then) -> None:
        """Send a command; call `then` with its answer, immediately if it cannot be sent."""
        if self._family is None:
            then(LOST)
        else:
            number = self._family.number
            self._send(lambda sequence: push(number, sequence), then)

    def _send(self, push: Callable[[int], bytes], then: Then) -> None:
        if self._link is None:
            then(LOST)
            return
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        try:
            self._link.commands.send(push(self._sequence), socket.MSG_DONTWAIT)
        except OSError as error:
            then(Acknowledgement(error.errno or Status.FAILED))
            return
        self._waiting[self._sequence] = then
        if self._unanswered is None:
            self._unanswered = self._loop.call_later(self._answer_seconds, self._stalled)

    # Resolving the family

    def _resolve(self) -> None:
        self._family = None
        self._retry = None
        self._send(push_get_family, self._resolved)

    def _resolved(self, reply: FromKernel) -> None:
        if reply is LOST or self._link is None:
            return
        if not isinstance(reply, Family) or reply.group is None:
            self._retry_later(NO_FAMILY, self._resolve)
            return
        try:
            self._link.join(reply.group)
        except OSError as error:
            self._retry_later(f"cannot subscribe to READY: {error.strerror}", self._resolve)
            return
        self._family = reply
        # -1 is not a descriptor: a kernel that knows tags reports that, others refuse the tag first.
        self.command(lambda number, sequence: push_done(number, sequence, -1, 0, (), ("probe",)), self._probed)

    def _probed(self, reply: FromKernel) -> None:
        if reply is LOST:
            return
        self.takes_tags = reply == Acknowledgement(Status.BAD_DESCRIPTOR)
        self.state = "serving"
        log.info("kernel upcalls: serving; DONE accepts %s", "tags" if self.takes_tags else "no tags")
        self._listener.serving()

    def _retry_later(self, state: str, call: Callable[[], None]) -> None:
        if self.state != state:
            log.warning("kernel upcalls: %s", state)
        self.state = state
        self._cancel_retry()
        if not self._closed:
            self._retry = self._loop.call_later(self._retry_seconds, call)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # Losing the family

    def _stalled(self) -> None:
        self._unanswered = None
        self._reconnect("a command was not answered")

    def _check_stale(self) -> None:
        if self._link is not None and self._link.stale:
            self._reconnect("the network namespace was deleted or replaced")
        else:
            self._stale_check = self._loop.call_later(self._retry_seconds, self._check_stale)

    def _reconnect(self, why: str) -> None:
        log.warning("kernel upcalls: %s; reconnecting", why)
        self._disconnect("reconnecting")
        if not self._closed:
            self.connect()

    def _disconnect(self, state: str) -> None:
        self._cancel_retry()
        if self._stale_check is not None:
            self._stale_check.cancel()
            self._stale_check = None
        for readiness in (self._commands, self._events):
            if readiness is not None:
                readiness.stop()
        if self._link is not None:
            self._link.close()
            self._link = None
        self._lose(state)

    def _lose(self, state: str) -> None:
        """Forget the family until it returns."""
        self.state = state
        self._family = None
        self._answer_all(LOST)

    def _answer_all(self, reply: FromKernel) -> None:
        """Answer all outstanding commands with `reply`."""
        waiting, self._waiting = self._waiting, {}
        self._restart_timeout()
        for then in waiting.values():
            then(reply)

    def _restart_timeout(self) -> None:
        """Restart the timeout of the outstanding answers."""
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None
        if self._waiting:
            self._unanswered = self._loop.call_later(self._answer_seconds, self._stalled)

    # Receiving

    def _read(self, sock: socket.socket) -> None:
        while self._link is not None and sock.fileno() >= 0:
            try:
                packet = sock.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._on_error(sock, error)
                return
            if not packet:
                self._reconnect("the link was closed")
                return
            number = None if self._family is None else self._family.number
            try:
                for sequence, message in pull_from_kernel(packet, number):
                    self._handle(sock, sequence, message)
            except FramingError as error:
                log.warning("malformed message of the kernel: %s", error.reason)

    def _on_error(self, sock: socket.socket, error: OSError) -> None:
        if error.errno != Status.NO_BUFFERS:
            self._reconnect(f"reading failed: {error.strerror}")
            return
        log.warning("messages of the kernel were lost (ENOBUFS); pending requests are accepted again")
        if self._link is not None and sock is self._link.commands:
            self._answer_all(Acknowledgement(Status.NO_BUFFERS))
        self._listener.ready()

    def _handle(self, sock: socket.socket, sequence: int, message: FromKernel) -> None:
        if isinstance(message, Ready):
            self._listener.ready()
        elif isinstance(message, FamilyChange):
            if message.present:
                self._lose("resolving the family")
                self._cancel_retry()
                self._resolve()
            else:
                self._on_family_removed()
        elif self._link is not None and sock is self._link.commands:
            then = self._waiting.pop(sequence, None)
            if then is None:
                self._listener.unexpected(message)
                return
            self._restart_timeout()
            if self._family is not None and message == Acknowledgement(Status.NOT_FOUND):
                then(LOST)
                self._on_family_removed()
            else:
                then(message)

    def _on_family_removed(self) -> None:
        self._lose("resolving the family")
        self._retry_later("the family was removed", self._resolve)
