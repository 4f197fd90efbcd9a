"""Descriptors that come with a packet on the Unix door, and the handshakes on QUIC sockets that they are for.

Whatever comes is closed: a QUIC socket by the handshake that takes it, everything else by one of its caller's
threads. Closing may wait for whoever serves a file, or for the peer of a socket that lingers, and so may reading.
"""

import array
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from handshaked.callers.threads import Threads
from handshaked.datapath.driver import Attempt
from handshaked.errors import Status, WireError
from handshaked.handshakes.caller_credentials import Files
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.model import Outcome, Request
from handshaked.wire.messages import Start

MAX_DESCRIPTORS = 4
_TRUNCATED = int(socket.MSG_CTRUNC)
# As many as the kernel passes on (SCM_MAX_FD): one for which there is no room it would close itself, while we wait.
CONTROL_SPACE = socket.CMSG_SPACE(253 * struct.calcsize("i"))


class Descriptors:
    """Those of one packet, as ``recvmsg`` gave them with its `flags`."""

    def __init__(self, control: list[tuple[int, int, bytes]], flags: int) -> None:
        self._truncated = bool(flags & _TRUNCATED)
        self._open = array.array("i")
        self._files: Files | None = None
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._open.frombytes(payload[: len(payload) - len(payload) % self._open.itemsize])

    def take_socket(self, start: Start) -> socket.socket:
        """The socket of `start`, which is the first of as many as `start` announces. WireError if they are not."""
        if self._truncated or len(self._open) > MAX_DESCRIPTORS:
            raise WireError(f"more than {MAX_DESCRIPTORS} descriptors came along", attribute="socket")
        if len(self._open) != start.descriptors:
            raise WireError(f"needs {start.descriptors} descriptors, {len(self._open)} came along", attribute="socket")
        try:
            sock = socket.socket(fileno=self._open[0])
        except OSError:
            raise WireError("is not a socket", attribute="socket") from None
        del self._open[0]
        return sock

    def take_back(self, sock: socket.socket) -> None:
        """Close `sock` with the rest."""
        self._open.append(sock.detach())

    def files(self, start: Start) -> Files | None:
        """The files behind the socket, which are read when ``let_go`` is called."""
        if start.descriptors > 1:
            left = iter(self._open)
            flags = (start.certificate_file, start.key_file, start.psk_file)
            self._files = Files(*(next(left) if flag else None for flag in flags))
        return self._files

    def let_go(self, threads: Threads, then: Callable[[], None]) -> bool:
        """Read what is to be read, close what nobody took, and call `then`; False if there is nothing to wait for."""
        if not self._open:
            return False

        def told() -> None:
            if self._files is not None:
                self._files.tell()
            then()

        threads.run(self._read_and_close, told)
        return True

    def _read_and_close(self) -> None:
        try:
            if self._files is not None:
                self._files.read()
        finally:
            while self._open:
                with suppress(OSError):  # of whoever serves the file; the descriptor is gone all the same
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
    sock = descriptors.take_socket(start)
    opening = True

    def finish(outcome: Outcome) -> None:
        if opening:  # nothing is known of it, not even that it is a QUIC socket
            descriptors.take_back(sock)
        else:
            sock.close()
        report(outcome)

    try:
        return handshakes.open(request, sock, descriptors.files(start), finish)
    finally:
        opening = False
