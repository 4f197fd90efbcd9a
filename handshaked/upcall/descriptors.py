"""Descriptors that come with a packet on the Unix door, and the handshakes on QUIC sockets that they are for.

Whatever comes is closed: by the handshake that takes it, or with the packet.
"""

import array
import os
import socket
import struct
from collections.abc import Callable

from handshaked.brought import Brought
from handshaked.driver import Attempt
from handshaked.errors import HandshakeError, Status, WireError
from handshaked.model import Outcome, Request
from handshaked.quic_sockets import QuicSocketHandshakes
from handshaked.wire.messages import Start

MAX_DESCRIPTORS = 4
CONTROL_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * struct.calcsize("i"))


class Descriptors:
    """Those of one packet, as ``recvmsg`` gave them with its `flags`."""

    def __init__(self, control: list[tuple[int, int, bytes]], flags: int) -> None:
        self._truncated = bool(flags & socket.MSG_CTRUNC)
        self._open = array.array("i")
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._open.frombytes(payload[: len(payload) - len(payload) % self._open.itemsize])

    def take(self, count: int) -> list[int]:
        """All of them, which have to be `count`; they are the caller's to close. WireError, and they stay here."""
        if self._truncated:
            raise WireError(f"more than {MAX_DESCRIPTORS} descriptors came along", attribute="socket")
        if len(self._open) != count:
            raise WireError(f"needs {count} descriptors, {len(self._open)} came along", attribute="socket")
        taken = self._open.tolist()
        del self._open[:]
        return taken

    def close(self) -> None:
        """Close what nobody took."""
        while self._open:
            os.close(self._open.pop())


def open_on_socket(
    handshakes: QuicSocketHandshakes | None,
    request: Request,
    start: Start,
    descriptors: Descriptors,
    report: Callable[[Outcome], None],
) -> Attempt:
    """Begin the handshake of `start` on the socket that came with it; WireError if there is no such socket.

    `report` may be called before this returns.
    """
    if handshakes is None:
        raise WireError("is not served here", status=Status.UNSUPPORTED, attribute="socket")
    if not start.socket:
        raise WireError("is missing: files are for handshakes on a socket", attribute="socket")
    if start.transport_parameters is not None:
        raise WireError("are the socket's to tell", attribute="transport-parameters")
    taken = descriptors.take(start.descriptors)
    files = taken[1:]
    try:
        sock = socket.socket(fileno=taken[0])
    except OSError:
        _close([taken[0], *files])
        raise WireError("is not a socket", attribute="socket") from None
    try:
        flags = (start.certificate_file, start.key_file, start.psk_file)
        left = iter(files)
        brought = Brought.read(*(next(left) if flag else None for flag in flags))
    except HandshakeError as error:
        sock.close()
        raise WireError(error.reason, status=error.status, attribute="socket") from None
    finally:
        _close(files)

    def finish(outcome: Outcome) -> None:
        sock.close()
        report(outcome)

    return handshakes.open(request, sock, brought, finish)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
