"""JSON messages, maybe with file descriptors, on SOCK_SEQPACKET sockets: one message a packet."""

import array
import json
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from handshaked.errors import RefusedError

MAX_MESSAGE = 160 * 1024
MAX_DESCRIPTORS = 48
# As many as the kernel passes on (SCM_MAX_FD): one for which there is no room it would close itself, while we wait.
_CONTROL_SPACE = socket.CMSG_SPACE(4 * 253)

Message = dict[str, Any]
T = TypeVar("T")


def send_message(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send `message`; `descriptors` stay open here. RefusedError if it is too long for a packet."""
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > MAX_MESSAGE:
        raise RefusedError(f"a message of {len(packet)} bytes is over the limit of {MAX_MESSAGE}")
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([packet], control, socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet as it came, with its ``descriptors`` (close-on-exec), which are for who has received it to close."""

    content: bytes
    descriptors: tuple[int, ...]
    whole: bool

    def message(self) -> Message | None:
        """The message in it; None when the peer has closed. RefusedError for what is no such message."""
        if not self.whole:
            raise RefusedError("the message, or its list of descriptors, is too long")
        return _parsed(self.content) if self.content else None


def receive_packet(sock: socket.socket) -> Packet:
    """The next packet, whatever is in it."""
    content, control, flags, _ = sock.recvmsg(MAX_MESSAGE, _CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) and len(descriptors) <= MAX_DESCRIPTORS
    return Packet(content, tuple(descriptors), whole)


def receive_message(sock: socket.socket) -> tuple[Message, tuple[int, ...]] | None:
    """The next message and its descriptors, which the caller closes; None when the peer has closed.

    RefusedError for what is no such message; its descriptors are closed. For peers of whom none makes that wait.
    """
    packet = receive_packet(sock)
    message = None
    try:
        message = packet.message()
    finally:
        if message is None:
            close_all(packet.descriptors)
    return None if message is None else (message, packet.descriptors)


def first_that_fit(items: Iterable[T], share: float = 0.75) -> list[T]:
    """As many of `items`, which are JSON, as take that `share` of a message; one at least."""
    found: list[T] = []
    left = MAX_MESSAGE * share
    for item in items:
        left -= len(json.dumps(item, separators=(",", ":"))) + 1
        if found and left < 0:
            break
        found.append(item)
    return found


def close_all(descriptors: tuple[int, ...]) -> None:
    """Close `descriptors`, whatever their files say to that."""
    for descriptor in descriptors:
        with suppress(OSError):  # the descriptor is gone all the same
            os.close(descriptor)


def _parsed(packet: bytes) -> Message:
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        raise RefusedError("the message is not JSON") from None
    if not isinstance(message, dict):
        raise RefusedError("the message is not a JSON object")
    return message
