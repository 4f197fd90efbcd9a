"""The connection to the kernel's family ``handshake``: found, probed, lost and found again; commands and answers.

The family may come later, or go and come back: its controller tells. Every command gets exactly one answer; those that
are still waiting when the connection breaks are told so (``LOST``), and so are those whose answer does not come.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from handshaked.errors import FramingError, Status
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
"""Stands for the answer to a command whose answer will not come."""
NO_FAMILY = "the kernel has no family handshake yet; it comes with CONFIG_NET_HANDSHAKE (Linux 6.4)"


class Link(Protocol):
    """The way to the family: a socket for commands and one for events, both non-blocking."""

    commands: socket.socket
    events: socket.socket

    @property
    def stale(self) -> bool:
        """Whether it leads to a place that is not meant any more."""
        ...

    def join(self, group: int) -> None:
        """Have the events of a multicast group come in."""
        ...

    def close(self) -> None:
        """Close both sockets."""
        ...


class Listener(Protocol):
    """What the connection's owner is told."""

    def serving(self) -> None:
        """The family is there (again); what had been asked before is forgotten."""
        ...

    def ready(self) -> None:
        """Requests may be pending."""
        ...

    def unexpected(self, message: FromKernel) -> None:
        """An answer came that had been given up on."""
        ...


Push = Callable[[int, int], bytes]
"""Makes a command's packet of the family's number and a sequence number."""
Then = Callable[[FromKernel], None]


class Connection:
    """Connects by `open_link`; an answer may take `answer` seconds, and what failed is tried again after `retry`."""

    def __init__(self, open_link: Callable[[], Link], listener: Listener, *, answer: float, retry: float) -> None:
        self._open_link = open_link
        self._listener = listener
        self._answer_seconds = answer
        self._retry_seconds = retry
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._family: Family | None = None
        self._sequence = 0
        self._waiting: dict[int, Then] = {}
        self._unanswered: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False
        self.takes_tags = False
        self.state = "not connected"

    @property
    def is_serving(self) -> bool:
        """Whether commands can be sent."""
        return self.state == "serving"

    def connect(self) -> None:
        """Open the link and look for the family; goes on by itself until ``close``."""
        self._again = None
        try:
            self._link = self._open_link()
        except OSError as error:
            self._try_again(f"no netlink: {error.strerror}", self.connect)
            return
        self._loop.add_reader(self._link.commands, self._read, self._link.commands)
        self._loop.add_reader(self._link.events, self._read, self._link.events)
        self._looking = self._loop.call_later(self._retry_seconds, self._look)
        self._resolve()

    def deafen(self) -> None:
        """Hear no more events, so that requests go to others; commands are answered still."""
        self._closed = True
        if self._link is not None:
            self._loop.remove_reader(self._link.events)

    def collect(self) -> None:
        """Take in the answers that are there: the kernel gives them while a command is sent."""
        if self._link is not None:
            self._read(self._link.commands)

    def close(self) -> None:
        """Let go of the link; whatever waits for an answer is told that none comes."""
        self._closed = True
        self._disconnect("stopped")

    def command(self, push: Push, then: Then) -> None:
        """Send a command; `then` gets its answer, at once where it cannot be sent."""
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

    # Finding the family

    def _resolve(self) -> None:
        self._family = None
        self._again = None
        self._send(push_get_family, self._resolved)

    def _resolved(self, reply: FromKernel) -> None:
        if reply is LOST or self._link is None:
            return
        if not isinstance(reply, Family) or reply.group is None:
            self._try_again(NO_FAMILY, self._resolve)
            return
        try:
            self._link.join(reply.group)
        except OSError as error:
            self._try_again(f"READY cannot be heard: {error.strerror}", self._resolve)
            return
        self._family = reply
        # -1 is no descriptor: a kernel that knows tags says so, another refuses the tag first.
        self.command(lambda number, sequence: push_done(number, sequence, -1, 0, (), ("probe",)), self._probed)

    def _probed(self, reply: FromKernel) -> None:
        if reply is LOST:
            return
        self.takes_tags = reply == Acknowledgement(Status.BAD_DESCRIPTOR)
        self.state = "serving"
        log.info("kernel upcalls: serving; DONE takes %s", "tags" if self.takes_tags else "no tags")
        self._listener.serving()

    def _try_again(self, state: str, call: Callable[[], None]) -> None:
        if self.state != state:
            log.warning("kernel upcalls: %s", state)
        self.state = state
        self._cancel_again()
        if not self._closed:
            self._again = self._loop.call_later(self._retry_seconds, call)

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    # Losing it

    def _stalled(self) -> None:
        self._unanswered = None
        self._reconnect("a command was not answered")

    def _look(self) -> None:
        if self._link is not None and self._link.stale:
            self._reconnect("the network namespace is gone, or another one")
        else:
            self._looking = self._loop.call_later(self._retry_seconds, self._look)

    def _reconnect(self, why: str) -> None:
        log.warning("kernel upcalls: %s; connecting anew", why)
        self._disconnect("connecting anew")
        if not self._closed:
            self.connect()

    def _disconnect(self, state: str) -> None:
        self._cancel_again()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._link is not None:
            self._loop.remove_reader(self._link.commands)
            self._loop.remove_reader(self._link.events)
            self._link.close()
            self._link = None
        self._lose(state)

    def _lose(self, state: str) -> None:
        """The family is not to be had for now."""
        self.state = state
        self._family = None
        self._settle(LOST)

    def _settle(self, reply: FromKernel) -> None:
        """Give all that wait for an answer this one."""
        waiting, self._waiting = self._waiting, {}
        self._watch()
        for then in waiting.values():
            then(reply)

    def _watch(self) -> None:
        """An answer came: those that are outstanding have their time from now on."""
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None
        if self._waiting:
            self._unanswered = self._loop.call_later(self._answer_seconds, self._stalled)

    # What comes in

    def _read(self, sock: socket.socket) -> None:
        while self._link is not None and sock.fileno() >= 0:
            try:
                packet = sock.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._overrun(sock, error)
                return
            if not packet:
                self._reconnect("the link was closed")
                return
            number = None if self._family is None else self._family.number
            try:
                for sequence, message in pull_from_kernel(packet, number):
                    self._handle(sock, sequence, message)
            except FramingError as error:
                log.warning("a message of the kernel falls apart: %s", error.reason)

    def _overrun(self, sock: socket.socket, error: OSError) -> None:
        if error.errno != Status.NO_BUFFERS:
            self._reconnect(f"reading failed: {error.strerror}")
            return
        log.warning("messages of the kernel were lost (ENOBUFS); going on")
        if self._link is not None and sock is self._link.commands:
            self._settle(Acknowledgement(Status.NO_BUFFERS))
        self._listener.ready()

    def _handle(self, sock: socket.socket, sequence: int, message: FromKernel) -> None:
        if isinstance(message, Ready):
            self._listener.ready()
        elif isinstance(message, FamilyChange):
            if message.present:
                self._lose("looking for the family")
                self._cancel_again()
                self._resolve()
            else:
                self._family_went()
        elif self._link is not None and sock is self._link.commands:
            then = self._waiting.pop(sequence, None)
            if then is None:
                self._listener.unexpected(message)
                return
            self._watch()
            if self._family is not None and message == Acknowledgement(Status.NO_SUCH):
                then(LOST)
                self._family_went()
            else:
                then(message)

    def _family_went(self) -> None:
        self._lose("looking for the family")
        self._try_again("the family went away", self._resolve)
