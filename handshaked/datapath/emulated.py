"""An emulated QUIC socket: system calls become messages on a SOCK_SEQPACKET pair, which another process answers.

For tests and demonstrations on machines whose kernel has no QUIC. A call blocks until its answer, for a second at most,
so the daemon accepts such sockets only with an option.
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
from handshaked.wire.attached import refuse_descriptors

MAX_MESSAGE = 128 * 1024
_HEADER = struct.Struct("=BI")
_MORE = struct.Struct("=BB")
_TIMEOUT = 1.0


class Kind(enum.IntEnum):
    """Types of messages; the header also has a number: an option, a size, a level, or an errno."""

    GET = 1
    SET = 2
    SEND = 3
    RECEIVE = 4
    REPLY = 5
    READABLE = 6


def push_message(kind: Kind, number: int, body: bytes = b"") -> bytes:
    """Encode a message."""
    return _HEADER.pack(kind, number) + body


def pull_message(data: bytes) -> tuple[int, int, bytes]:
    """Return kind, number and body of a message; struct.error if it is malformed."""
    kind, number = _HEADER.unpack_from(data)
    return kind, number, data[_HEADER.size :]


def push_send(level: Level, message: bytes, *, more: bool) -> bytes:
    """Encode the body of SEND."""
    return _MORE.pack(LEVELS[level], more) + message


def pull_send(body: bytes) -> tuple[Level | None, bytes, bool]:
    """Return the level (None if unknown), the message, and whether more follows."""
    level, more = _MORE.unpack_from(body)
    return pull_level(bytes((level,))), body[_MORE.size :], bool(more)


class EmulatedQuicSocket:
    """The agent's end; implements ``QuicSocket``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """See ``QuicSocket``."""
        return self._sock.fileno()

    def option(self, option: Option, size: int) -> bytes:
        """See ``QuicSocket``."""
        return self._call(Kind.GET, option)[:size]

    def set_option(self, option: Option, value: bytes) -> None:
        """See ``QuicSocket``."""
        self._call(Kind.SET, option, value)

    def send(self, level: Level, message: bytes, *, more: bool) -> None:
        """See ``QuicSocket``."""
        self._call(Kind.SEND, 0, push_send(level, message, more=more))

    def receive(self) -> tuple[Level, bytes] | None:
        """See ``QuicSocket``."""
        try:
            reply = self._call(Kind.RECEIVE, 0)
        except BlockingIOError:
            return None
        level = pull_level(reply[:1])
        if level is None:
            raise _malformed()
        return level, reply[1:]

    def _call(self, kind: Kind, number: int, body: bytes = b"") -> bytes:
        self._sock.send(push_message(kind, number, body), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        deadline = time.monotonic() + _TIMEOUT
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            packet = self._sock.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            if not packet:
                raise OSError(Status.NOT_CONNECTED, "the emulated socket was closed")
            try:
                answer, status, value = pull_message(packet)
            except struct.error:
                raise _malformed() from None
            if answer == Kind.REPLY:
                if status:
                    raise OSError(status, f"{kind.name} {number}: {os.strerror(status)}")
                return value
        raise OSError(Status.TIMED_OUT, "the emulated socket does not answer")


def _malformed() -> OSError:
    return OSError(Status.INVALID, "malformed answer of the emulated socket")


def emulated_quic_socket(sock: socket.socket) -> EmulatedQuicSocket:
    """Return `sock` as an emulated QUIC socket; LocalError unless it is an end of an unnamed SOCK_SEQPACKET pair."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        raise LocalError("not an emulated QUIC socket", Status.UNSUPPORTED)
    try:
        named = sock.getpeername() or sock.getsockname()
    except OSError as error:
        raise LocalError(f"not connected: {error.strerror}", Status.INVALID) from None
    if named:  # a connection to some service, possibly ours
        raise LocalError("not an emulated QUIC socket: it is bound to a name", Status.INVALID)
    refuse_descriptors(sock)  # nothing here receives any, so the kernel would close them, which may block
    return EmulatedQuicSocket(sock)
