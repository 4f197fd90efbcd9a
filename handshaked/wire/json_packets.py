"""JSON messages on SOCK_SEQPACKET sockets, one per packet, optionally with file descriptors."""

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from handshaked.errors import RefusedError
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors

MAX_MESSAGE = 160 * 1024
MAX_DESCRIPTORS = 48

Message = dict[str, Any]
T = TypeVar("T")


def send_message(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send `message` with copies of `descriptors`. RefusedError if it is too long for a packet."""
    packet = json.dumps(message, separators=(",", ":")).encode()
    if len(packet) > MAX_MESSAGE:
        raise RefusedError(f"message of {len(packet)} bytes exceeds the limit of {MAX_MESSAGE}")
    sock.sendmsg([packet], push_descriptors(descriptors), socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Packet:
    """A received packet with its ``descriptors`` (close-on-exec), which the receiver must close."""

    content: bytes
    descriptors: tuple[int, ...]
    whole: bool

    def message(self) -> Message | None:
        """Return its message; None if the peer has closed the connection. RefusedError if it is malformed."""
        if not self.whole:
            raise RefusedError("the message is too long, or has too many file descriptors")
        return _parsed(self.content) if self.content else None


def next_length(sock: socket.socket) -> int:
    """Return the length of the next packet, which stays unread; 0 if the peer has closed."""
    return sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)


def receive_packet(sock: socket.socket, longest: int = MAX_MESSAGE) -> Packet:
    """Receive the next packet, without looking at its content. The rest of one over `longest` bytes is dropped."""
    content, control, flags, _ = sock.recvmsg(longest, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
    descriptors = pull_descriptors(control)
    whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) and len(descriptors) <= MAX_DESCRIPTORS
    return Packet(content, tuple(descriptors), whole)


def receive_message(sock: socket.socket) -> tuple[Message, tuple[int, ...]] | None:
    """Receive the next message and its descriptors, which the caller must close; None if the peer has closed.

    RefusedError if it is malformed; its descriptors are closed here, so only for trusted peers: closing may block.
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
    """Return as many of the JSON `items` as fit in this `share` of a message; at least one."""
    found: list[T] = []
    left = MAX_MESSAGE * share
    for item in items:
        left -= len(json.dumps(item, separators=(",", ":"))) + 1
        if found and left < 0:
            break
        found.append(item)
    return found


def _parsed(packet: bytes) -> Message:
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        raise RefusedError("the message is not JSON") from None
    if not isinstance(message, dict):
        raise RefusedError("the message is not a JSON object")
    return message
