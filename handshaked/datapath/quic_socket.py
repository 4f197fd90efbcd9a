"""The interface of a QUIC socket for handshakes, and the kernel's implementation."""

import ctypes
import os
import socket
from typing import Protocol

from handshaked.datapath.quic_options import (
    HANDSHAKE_INFO,
    IPPROTO_QUIC,
    MAX_CHUNK,
    SOL_QUIC,
    Option,
    pull_level,
    push_level,
)
from handshaked.errors import LocalError, Status
from handshaked.model import Level

_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_libc = ctypes.CDLL(None, use_errno=True)


class QuicSocket(Protocol):
    """A QUIC socket during its handshake. Methods raise OSError, and block no longer than a system call."""

    def fileno(self) -> int:
        """Return the descriptor, which is readable when ``receive`` may return something."""
        ...

    def option(self, option: Option, size: int) -> bytes:
        """Return the value of an option, at most `size` bytes."""
        ...

    def set_option(self, option: Option, value: bytes) -> None:
        """Set an option."""
        ...

    def send(self, level: Level, message: bytes, *, more: bool) -> None:
        """Send one handshake message; `more` if others of the flight follow. BlockingIOError: retry when writable."""
        ...

    def receive(self) -> tuple[Level, bytes] | None:
        """Return the CRYPTO data of the next frame; None if there is none yet."""
        ...


class KernelQuicSocket:
    """A socket of protocol IPPROTO_QUIC. Its flags are not changed: it is shared with the caller."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """See ``QuicSocket``."""
        return self._sock.fileno()

    def option(self, option: Option, size: int) -> bytes:
        """See ``QuicSocket``."""
        # Through libc: Python's getsockopt is limited to 1024 bytes.
        buffer = ctypes.create_string_buffer(size)
        length = ctypes.c_uint32(size)
        if _libc.getsockopt(self._sock.fileno(), SOL_QUIC, int(option), buffer, ctypes.byref(length)):
            raise _failed("getsockopt", option, ctypes.get_errno())
        return buffer.raw[: min(length.value, size)]

    def set_option(self, option: Option, value: bytes) -> None:
        """See ``QuicSocket``."""
        try:
            self._sock.setsockopt(SOL_QUIC, option, value)
        except OSError as error:
            raise _failed("setsockopt", option, error.errno or Status.FAILED) from None

    def send(self, level: Level, message: bytes, *, more: bool) -> None:
        """See ``QuicSocket``."""
        flags = _SEND | (socket.MSG_MORE if more else 0)
        self._sock.sendmsg([message], [(SOL_QUIC, HANDSHAKE_INFO, push_level(level))], flags)

    def receive(self) -> tuple[Level, bytes] | None:
        """See ``QuicSocket``."""
        try:
            data, control, _, _ = self._sock.recvmsg(MAX_CHUNK, socket.CMSG_SPACE(8), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        for kind, number, payload in control:
            level = pull_level(payload) if (kind, number) == (SOL_QUIC, HANDSHAKE_INFO) else None
            if level is not None:
                return level, data
        raise OSError(Status.NOT_CONNECTED, "received data that is not a handshake message")


def _failed(call: str, option: Option, number: int) -> OSError:
    return OSError(number, f"{call} {option.name}: {os.strerror(number)}")


def kernel_quic_socket(sock: socket.socket) -> QuicSocket:
    """Return `sock` as a QUIC socket; LocalError if it is something else, or listens."""
    if sock.proto != IPPROTO_QUIC:
        raise LocalError(f"not a QUIC socket: protocol {sock.proto}", Status.UNSUPPORTED)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise LocalError("a listening socket cannot run a handshake", Status.INVALID)
    return KernelQuicSocket(sock)
