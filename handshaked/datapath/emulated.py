"""A QUIC socket that a process stands in for: the kernel's calls as messages on a SOCK_SEQPACKET pair.

For tests and demonstrations on machines whose kernel has no QUIC. The one who stands in answers every call at once; it
is waited for, a second at most, so a daemon takes such sockets only if it is told to.
"""

import enum
import os
import select
import socket
import struct
import time

from handshaked.datapath.quic_options import LEVELS, Option, pull_level
from handshaked.errors import LocalError, Status
from handshaked.model import Level

MAX_MESSAGE = 128 * 1024
_HEADER = struct.Struct("=BI")
_MORE = struct.Struct("=BB")
_PATIENCE = 1.0


class Kind(enum.IntEnum):
    """What a message is; its header has one number more: an option, a size, a level, or an errno."""

    GET = 1
    SET = 2
    SEND = 3
    RECEIVE = 4
    REPLY = 5
    READABLE = 6


def push_message(kind: Kind, number: int, body: bytes = b"") -> bytes:
    """A message."""
    return _HEADER.pack(kind, number) + body


def pull_message(data: bytes) -> tuple[int, int, bytes]:
    """Kind, number and body of a message; struct.error if it is none."""
    kind, number = _HEADER.unpack_from(data)
    return kind, number, data[_HEADER.size :]


def push_send(level: Level, message: bytes, *, more: bool) -> bytes:
    """The body of SEND."""
    return _MORE.pack(LEVELS[level], more) + message


def pull_send(body: bytes) -> tuple[Level | None, bytes, bool]:
    """Level (None: there is no such), message, and whether more follows."""
    level, more = _MORE.unpack_from(body)
    return pull_level(bytes((level,))), body[_MORE.size :], bool(more)


class EmulatedQuicSocket:
    """The agent's end. Implements ``QuicSocket``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """As in QuicSocket."""
        return self._sock.fileno()

    def option(self, option: Option, size: int) -> bytes:
        """As in QuicSocket."""
        return self._call(Kind.GET, option)[:size]

    def set_option(self, option: Option, value: bytes) -> None:
        """As in QuicSocket."""
        self._call(Kind.SET, option, value)

    def send(self, level: Level, message: bytes, *, more: bool) -> None:
        """As in QuicSocket."""
        self._call(Kind.SEND, 0, push_send(level, message, more=more))

    def receive(self) -> tuple[Level, bytes] | None:
        """As in QuicSocket."""
        try:
            reply = self._call(Kind.RECEIVE, 0)
        except BlockingIOError:
            return None
        level = pull_level(reply[:1])
        if level is None:
            raise _misspoken()
        return level, reply[1:]

    def _call(self, kind: Kind, number: int, body: bytes = b"") -> bytes:
        self._sock.send(push_message(kind, number, body), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        deadline = time.monotonic() + _PATIENCE
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            packet = self._sock.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            if not packet:
                raise OSError(Status.NOT_CONNECTED, "the socket is gone")
            try:
                answer, status, value = pull_message(packet)
            except struct.error:
                raise _misspoken() from None
            if answer == Kind.REPLY:
                if status:
                    raise OSError(status, f"{kind.name} {number}: {os.strerror(status)}")
                return value
        raise OSError(Status.TIMED_OUT, "who stands in for the socket does not answer")


def _misspoken() -> OSError:
    return OSError(Status.INVALID, "who stands in for the socket speaks another language")


def emulated_quic_socket(sock: socket.socket) -> EmulatedQuicSocket:
    """`sock` as QUIC socket; LocalError unless it is an end of a nameless SOCK_SEQPACKET pair."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        raise LocalError("neither a QUIC socket nor a stand-in for one", Status.UNSUPPORTED)
    try:
        named = sock.getpeername() or sock.getsockname()
    except OSError as error:
        raise LocalError(f"not connected: {error.strerror}", Status.INVALID) from None
    if named:  # a connection to somebody's service, ours maybe
        raise LocalError("a stand-in for a QUIC socket has no name", Status.INVALID)
    return EmulatedQuicSocket(sock)
