"""A fake of the kernel's family ``handshake``, with netlink messages on socket pairs, for tests and demonstrations.

It runs in the process of the kernel source that it serves, so that descriptors can be passed by number. It does nothing
by itself: its user submits requests, and can inject errors.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from handshaked.errors import Status
from handshaked.model import AuthMode, Role
from handshaked.upcall.kernel_messages import FAMILY_NAME, GROUP_NAME
from handshaked.wire.netlink import Frame, push_binary, push_message, push_string, push_u32

CONTROLLER = 16
_GROUP = 14
_READY, _ACCEPT, _DONE = 1, 2, 3
_GETFAMILY, _NEWFAMILY, _DELFAMILY = 3, 1, 2
_NLM_F_ACK = 4
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_HEADERS = struct.Struct("=IHHIIBBH")
_ERROR = struct.Struct("=IHHIIi")


@dataclass(frozen=True, slots=True)
class Submission:
    """A consumer's request. The agent gets a duplicate of the socket's descriptor."""

    sock: socket.socket
    role: Role
    auth_mode: AuthMode = AuthMode.X509
    timeout: int | None = None
    peer_name: str | None = None
    identity_keys: tuple[int, ...] = ()
    certificate_keys: tuple[tuple[int, int], ...] = ()
    keyring: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A received DONE."""

    descriptor: int
    status: int
    peer_keys: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class FakeLink:
    """The agent's ends of the socket pairs."""

    commands: socket.socket
    events: socket.socket
    groups: list[int] = field(default_factory=list)
    stale: bool = False

    def join(self, group: int) -> None:
        """As ``Link.join``."""
        self.groups.append(group)

    def close(self) -> None:
        """As ``Link.close``."""
        self.commands.close()
        self.events.close()


def _nothing() -> None:
    pass


class FakeFamily:
    """The family and its queue of requests; with `number` None it does not exist yet.

    ``faults`` are errnos that the next commands get instead of an answer; 0 means no answer at all. ``commands_served``
    counts commands. ``on_done`` is called with each report. Call ``serve`` when ``commands`` is readable.
    """

    def __init__(self, number: int | None = 33, *, takes_tags: bool = False) -> None:
        self.number = number
        self.takes_tags = takes_tags
        self.reports: list[Report] = []
        self.links = 0
        self.commands_served = 0
        self.faults: deque[int] = deque()
        self.on_done: Callable[[Report], None] = lambda report: None
        self.on_link: Callable[[], object] = _nothing
        self._pending: deque[Submission] = deque()
        self._accepted: dict[int, int] = {}

    # The family's ends and the agent's, replaced with each link.
    commands: socket.socket
    events: socket.socket
    link: FakeLink

    def open_link(self) -> FakeLink:
        """Return a new link to this family, which replaces an earlier one."""
        if self.links:
            self.close()
        self.links += 1
        self.commands, commands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.events, events = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self.commands, self.events, commands, events):
            sock.setblocking(False)
        self.on_link()
        self.link = FakeLink(commands, events)
        return self.link

    def serve_in_loop(self) -> None:
        """Serve all links in the running event loop."""
        loop = asyncio.get_running_loop()
        self.on_link = lambda: loop.add_reader(self.commands, self.serve)

    def close(self) -> None:
        """Close the family's ends."""
        if self.on_link is not _nothing:
            asyncio.get_running_loop().remove_reader(self.commands)
        self.commands.close()
        self.events.close()

    def submit(self, submission: Submission, *, ready: bool = True) -> None:
        """Queue a request, and send READY unless `ready` is false."""
        self._pending.append(submission)
        if ready:
            self.send_ready()

    def send_ready(self) -> None:
        """Send READY, even if nothing is pending."""
        if self.number is not None:
            self.events.send(push_message(self.number, 0, _READY, push_u32(2, 1)))

    def change(self, number: int | None) -> None:
        """Remove the family (None), or add it with another number."""
        self.number = number
        command = _DELFAMILY if number is None else _NEWFAMILY
        self.events.send(push_message(CONTROLLER, 0, command, self._family(number or 0)))

    def serve(self) -> None:
        """Handle the received commands."""
        while True:
            try:
                packet = self.commands.recv(65536)
            except BlockingIOError:
                return
            if not packet:
                if self.on_link is not _nothing:
                    asyncio.get_running_loop().remove_reader(self.commands)
                return
            length, kind, flags, sequence, _, command, version, _ = _HEADERS.unpack_from(packet)
            frame = Frame(kind, flags, sequence, command, version, packet[_HEADERS.size : length])
            self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        self.commands_served += 1
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            if fault:
                self._refuse(frame, fault)
        elif frame.family == CONTROLLER:
            self._get_family(frame)
        elif frame.family != self.number:
            self._refuse(frame, Status.NOT_FOUND)
        elif frame.command == _ACCEPT:
            self._accept(frame)
        elif frame.command == _DONE:
            self._done(frame)

    def _refuse(self, frame: Frame, status: int) -> None:
        self._send(_ERROR.pack(36, 2, 0, frame.sequence, 0, -status) + bytes(16))

    def _get_family(self, frame: Frame) -> None:
        if self.number is None:
            self._refuse(frame, Status.NOT_FOUND)
        else:
            self._send(push_message(CONTROLLER, frame.sequence, _NEWFAMILY, self._family(self.number)))

    def _family(self, number: int) -> bytes:
        group = push_string(1, GROUP_NAME) + push_u32(2, _GROUP)
        return push_string(2, FAMILY_NAME) + push_binary(1, struct.pack("=H", number)) + push_binary(
            7, push_binary(1, group)
        )  # fmt: skip

    def _accept(self, frame: Frame) -> None:
        if not self._pending:
            self._refuse(frame, Status.WOULD_BLOCK)
            return
        submission = self._pending.popleft()
        descriptor = os.dup(submission.sock.fileno())
        self._accepted[descriptor] = submission.sock.fileno()
        self._send(push_message(frame.family, frame.sequence, _ACCEPT, _push_submission(submission, descriptor)))

    def _done(self, frame: Frame) -> None:
        attributes = list(_pull_attributes(frame.attributes))
        values = {kind: value for kind, value in attributes if kind in (1, 2)}
        descriptor = _S32.unpack(values[2])[0]
        tags = tuple(value.rstrip(b"\0").decode() for kind, value in attributes if kind == 4)
        if tags and not self.takes_tags:
            self._refuse(frame, Status.INVALID)
        elif descriptor < 0:
            self._refuse(frame, Status.BAD_DESCRIPTOR)
        elif descriptor not in self._accepted:
            self._refuse(frame, Status.BUSY)
        else:
            keys = tuple(_S32.unpack(value)[0] for kind, value in attributes if kind == 3)
            report = Report(descriptor, _U32.unpack(values[1])[0], keys, tags)
            self.reports.append(report)
            self.on_done(report)
            if frame.flags & _NLM_F_ACK:
                self._refuse(frame, Status.OK)

    def _send(self, message: bytes) -> None:
        with suppress(BrokenPipeError):  # the agent has closed its end; the command has taken effect nevertheless
            self.commands.send(message)


def _push_submission(submission: Submission, descriptor: int) -> bytes:
    """Encode the ACCEPT reply, with its attributes in the kernel's order."""
    reply = push_binary(1, _S32.pack(descriptor)) + push_u32(3, submission.role)
    if submission.peer_name is not None:
        reply += push_string(8, submission.peer_name)
    if submission.timeout is not None:
        reply += push_u32(4, submission.timeout)
    if submission.keyring is not None:
        reply += push_binary(9, _S32.pack(submission.keyring))
    reply += push_u32(5, submission.auth_mode)
    if submission.auth_mode is AuthMode.PSK:
        reply += b"".join(push_binary(6, _S32.pack(serial)) for serial in submission.identity_keys or (0,))
    for certificate, key in submission.certificate_keys:
        nested = push_binary(1, _S32.pack(certificate)) + push_binary(2, _S32.pack(key))
        reply += push_binary(7 | 0x8000, nested)
    return reply


def _pull_attributes(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        found.append((kind, data[position + _ATTRIBUTE.size : position + length]))
        position += (max(length, _ATTRIBUTE.size) + 3) & ~3
    return found
