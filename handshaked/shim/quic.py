"""Handshakes on QUIC sockets, for programs that use the kernel's QUIC: TLS, certificates and keys stay in the daemon.

The socket is connected (a client's) or accepted (a server's). When a call returns, it is ready for sendmsg and recvmsg.
"""

import array
import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.errors import FramingError, HandshakedError, Status
from handshaked.model import AuthMode, Outcome, Role
from handshaked.shim.client import default_socket
from handshaked.wire.family import pull_from_daemon, push_start
from handshaked.wire.messages import MAX_PACKET, Done, Malformed, Refused, Start

_DEFAULT_TIMEOUT = 8.0
_GRACE = 1.0  # seconds beyond the handshake's own deadline after which the daemon itself is taken for lost
_PATIENCE = struct.pack("@ll", 1, 0)  # of a blocking call, while a daemon takes no connections
_SILENT = Outcome(Status.TIMED_OUT, reason="the handshake daemon does not answer")


class HandshakeRefusedError(HandshakedError, OSError):
    """The handshake failed: ``errno`` and ``strerror`` say why, ``outcome`` says all there is to say."""

    def __init__(self, outcome: Outcome) -> None:
        OSError.__init__(self, outcome.status, outcome.reason or os.strerror(outcome.status))
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Options:
    """What else may be said of a handshake; fields as in ``wire.messages.Start``.

    ``certificate`` with ``key``, or ``psk``, are files used instead of a registration. ``path`` is the daemon's socket.
    """

    timeout: float = _DEFAULT_TIMEOUT
    auth_mode: AuthMode = AuthMode.X509
    registration: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    psk: Path | None = None
    trust_anchors: tuple[bytes, ...] = ()
    session_ticket: bytes | None = field(default=None, repr=False)
    ticket_seconds: int = 0
    early_data: bytes | None = None
    path: Path | None = None


def quic_client_handshake(
    sock: socket.socket | int,
    server_name: str | None = None,
    alpns: tuple[str, ...] = (),
    options: Options = Options(),
) -> Outcome:
    """The client's handshake on `sock`; without `alpns`, those that the socket has. HandshakeRefusedError."""
    return _block(Role.CLIENT, sock, server_name, alpns, options)


def quic_server_handshake(
    sock: socket.socket | int,
    alpns: tuple[str, ...] = (),
    options: Options = Options(),
) -> Outcome:
    """The server's handshake on `sock`; `alpns` limit what is served. HandshakeRefusedError."""
    return _block(Role.SERVER, sock, None, alpns, options)


async def quic_client_handshake_async(
    sock: socket.socket | int,
    server_name: str | None = None,
    alpns: tuple[str, ...] = (),
    options: Options = Options(),
) -> Outcome:
    """As ``quic_client_handshake``, for asyncio; cancelling it gives the handshake up."""
    return await _wait(Role.CLIENT, sock, server_name, alpns, options)


async def quic_server_handshake_async(
    sock: socket.socket | int,
    alpns: tuple[str, ...] = (),
    options: Options = Options(),
) -> Outcome:
    """As ``quic_server_handshake``, for asyncio; cancelling it gives the handshake up."""
    return await _wait(Role.SERVER, sock, None, alpns, options)


def _block(
    role: Role, sock: socket.socket | int, server_name: str | None, alpns: tuple[str, ...], options: Options
) -> Outcome:
    deadline = time.monotonic() + options.timeout + _GRACE
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        _ask(door, role, sock, server_name, alpns, options)
        poller = select.poll()
        poller.register(door, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            with _explained("the handshake daemon is gone"):
                packet = door.recv(MAX_PACKET)
            outcome = _outcome(packet)
            if outcome is not None:
                return _successful(outcome)
    raise HandshakeRefusedError(_SILENT)


async def _wait(
    role: Role, sock: socket.socket | int, server_name: str | None, alpns: tuple[str, ...], options: Options
) -> Outcome:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.setblocking(False)
        _ask(door, role, sock, server_name, alpns, options)
        try:
            async with asyncio.timeout(options.timeout + _GRACE):
                while True:
                    with _explained("the handshake daemon is gone"):
                        packet = await loop.sock_recv(door, MAX_PACKET)
                    outcome = _outcome(packet)
                    if outcome is not None:
                        return _successful(outcome)
        except TimeoutError:
            raise HandshakeRefusedError(_SILENT) from None


def _ask(
    door: socket.socket,
    role: Role,
    sock: socket.socket | int,
    server_name: str | None,
    alpns: tuple[str, ...],
    options: Options,
) -> None:
    """Connect `door` to the daemon and ask for the handshake."""
    start = Start(
        role=role,
        timeout=options.timeout,
        auth_mode=options.auth_mode,
        server_name=server_name,
        alpns=tuple(alpn.encode() for alpn in alpns),
        registration=options.registration,
        trust_anchors=options.trust_anchors,
        session_ticket=options.session_ticket,
        ticket_seconds=options.ticket_seconds,
        early_data=options.early_data,
        socket=True,
        certificate_file=options.certificate is not None,
        key_file=options.key is not None,
        psk_file=options.psk is not None,
    )
    path = options.path or default_socket()
    with ExitStack() as stack:
        descriptors = array.array("i", [sock if isinstance(sock, int) else sock.fileno()])
        for file in (options.certificate, options.key, options.psk):
            if file is not None:
                with _explained(f"cannot open {file}"):
                    descriptors.append(stack.enter_context(file.open("rb")).fileno())
        with _explained(f"no handshake daemon answers at {path}"):
            door.connect(os.fspath(path))
        with _explained("the handshake daemon cannot be asked"):
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            door.sendmsg([push_start(1, start)], control, socket.MSG_NOSIGNAL)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What fails within fails the handshake, and the caller is told `what` it was."""
    try:
        yield
    except OSError as error:
        status = Status.TIMED_OUT if isinstance(error, BlockingIOError) else error.errno or Status.FAILED
        words = os.strerror(status) if error.errno else str(error)  # a path that is too long has no number
        raise HandshakeRefusedError(Outcome(status, reason=f"{what}: {words}")) from None


def _outcome(packet: bytes) -> Outcome | None:
    if not packet:
        return Outcome(status=Status.PEER_GONE, reason="the handshake daemon closed the connection")
    try:
        for _, message in pull_from_daemon(packet):
            if isinstance(message, Done):
                return message.outcome
            if isinstance(message, Refused):
                return Outcome(status=message.error.status, reason=message.error.reason)
            if isinstance(message, Malformed):
                return Outcome(reason=f"the daemon's message is malformed: {message.error.reason}")
    except FramingError as error:
        return Outcome(reason=f"the daemon's packet falls apart: {error.reason}")
    return None


def _successful(outcome: Outcome) -> Outcome:
    if outcome.status:
        raise HandshakeRefusedError(outcome)
    return outcome
