"""Handshakes on QUIC sockets, for programs that use the kernel's QUIC: TLS, certificates and keys stay in the daemon.

The socket is connected (a client's) or accepted (a server's). When a call returns, it is ready for sendmsg and recvmsg.
"""

import array
import asyncio
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.errors import HandshakedError, Status
from handshaked.model import AuthMode, Outcome, Role
from handshaked.shim.client import default_socket
from handshaked.wire.family import pull_from_daemon, push_start
from handshaked.wire.messages import MAX_PACKET, Done, Refused, Start

_DEFAULT_TIMEOUT = 8.0
_GRACE = 1.0  # seconds beyond the handshake's own deadline after which the daemon itself is taken for lost


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
    with _asked(role, sock, server_name, alpns, options) as door:
        while (left := deadline - time.monotonic()) > 0 and select.select([door], [], [], left)[0]:
            outcome = _outcome(door.recv(MAX_PACKET))
            if outcome is not None:
                return _successful(outcome)
    raise HandshakeRefusedError(Outcome(Status.TIMED_OUT, reason="the handshake daemon does not answer"))


async def _wait(
    role: Role, sock: socket.socket | int, server_name: str | None, alpns: tuple[str, ...], options: Options
) -> Outcome:
    loop = asyncio.get_running_loop()
    with _asked(role, sock, server_name, alpns, options) as door:
        door.setblocking(False)
        try:
            async with asyncio.timeout(options.timeout + _GRACE):
                while True:
                    outcome = _outcome(await loop.sock_recv(door, MAX_PACKET))
                    if outcome is not None:
                        return _successful(outcome)
        except TimeoutError:
            outcome = Outcome(Status.TIMED_OUT, reason="the handshake daemon does not answer")
            raise HandshakeRefusedError(outcome) from None


@contextmanager
def _asked(
    role: Role, sock: socket.socket | int, server_name: str | None, alpns: tuple[str, ...], options: Options
) -> Iterator[socket.socket]:
    """A connection to the daemon over which the handshake was asked for."""
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
    with ExitStack() as stack:
        files = [path for path in (options.certificate, options.key, options.psk) if path is not None]
        opened = [stack.enter_context(path.open("rb")).fileno() for path in files]
        door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        door.connect(os.fspath(options.path or default_socket()))
        descriptors = array.array("i", [sock if isinstance(sock, int) else sock.fileno(), *opened])
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        door.sendmsg([push_start(1, start)], control, socket.MSG_NOSIGNAL)
        yield door


def _outcome(packet: bytes) -> Outcome | None:
    if not packet:
        return Outcome(status=Status.PEER_GONE, reason="the handshake daemon closed the connection")
    for _, message in pull_from_daemon(packet):
        if isinstance(message, Done):
            return message.outcome
        if isinstance(message, Refused):
            return Outcome(status=message.error.status, reason=message.error.reason)
    return None


def _successful(outcome: Outcome) -> Outcome:
    if outcome.status:
        raise HandshakeRefusedError(outcome)
    return outcome
