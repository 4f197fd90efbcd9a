"""File descriptors attached to packets of userspace endpoints, and the handshakes on QUIC sockets that they are for.

Every descriptor is closed: a QUIC socket by its handshake, all others in one of the caller's threads, because reading
and closing may block on a file server, or on the peer of a socket that lingers.
"""

import socket
from collections.abc import Callable

from handshaked.callers.threads import Threads
from handshaked.datapath.driver import Attempt
from handshaked.errors import Status, WireError
from handshaked.handshakes.caller_credentials import CredentialFiles
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.model import Outcome, Request
from handshaked.wire.attached import close_all, pull_descriptors
from handshaked.wire.messages import Start

MAX_DESCRIPTORS = 4
_TRUNCATED = int(socket.MSG_CTRUNC)


class Descriptors:
    """The descriptors of one packet, from ``recvmsg``'s ancillary data and `flags`."""

    def __init__(self, control: list[tuple[int, int, bytes]], flags: int) -> None:
        self._truncated = bool(flags & _TRUNCATED)
        self._open = pull_descriptors(control)
        self._files: CredentialFiles | None = None
        self.count = len(self._open)
        """The number of descriptors received."""

    def take_socket(self, start: Start) -> socket.socket:
        """Return the first descriptor as a socket; WireError if it is none, or if `start` expects another number."""
        if self._truncated or len(self._open) > MAX_DESCRIPTORS:
            raise WireError(f"more than {MAX_DESCRIPTORS} file descriptors are attached", attribute="socket")
        if len(self._open) != start.descriptors:
            reason = f"{len(self._open)} file descriptors are attached, expected {start.descriptors}"
            raise WireError(reason, attribute="socket")
        try:
            sock = socket.socket(fileno=self._open[0])
        except OSError:
            raise WireError("is not a socket", attribute="socket") from None
        del self._open[0]
        return sock

    def take_back(self, sock: socket.socket) -> None:
        """Close `sock` with the other descriptors."""
        self._open.append(sock.detach())

    def files(self, start: Start) -> CredentialFiles | None:
        """Return the files of `start`, which ``release`` will read; None if there are none."""
        if start.descriptors > 1:
            left = iter(self._open)
            flags = (start.certificate_file, start.key_file, start.psk_file)
            self._files = CredentialFiles(*(next(left) if flag else None for flag in flags))
        return self._files

    def release(self, threads: Threads, then: Callable[[], None]) -> bool:
        """Read the files, close all remaining descriptors, and call `then`; return False if there are none to close."""
        if not self._open:
            return False

        def finished() -> None:
            if self._files is not None:
                self._files.report()
            then()

        threads.run(self._read_and_close, finished)
        return True

    def _read_and_close(self) -> None:
        try:
            if self._files is not None:
                self._files.read()
        finally:
            close_all(self._open)
            del self._open[:]


def open_on_socket(
    handshakes: QuicSocketHandshakes | None,
    request: Request,
    start: Start,
    descriptors: Descriptors,
    report: Callable[[Outcome], None],
) -> Attempt:
    """Begin the handshake of `start` on the socket attached to it; WireError if there is none.

    `report` may be called before this function returns.
    """
    if handshakes is None:
        raise WireError("is not supported here", status=Status.UNSUPPORTED, attribute="socket")
    if not start.socket:
        raise WireError("is missing: files are only for handshakes on a socket", attribute="socket")
    if start.transport_parameters is not None:
        raise WireError("not allowed: the socket has them", attribute="transport-parameters")
    sock = descriptors.take_socket(start)
    opening = True

    def finish(outcome: Outcome) -> None:
        if opening:  # it may not even be a QUIC socket, and closing it may block
            descriptors.take_back(sock)
        else:
            sock.close()
        report(outcome)

    try:
        return handshakes.open(request, sock, descriptors.files(start), finish)
    finally:
        opening = False
