"""Handshakes on the kernel's QUIC sockets, done by the daemon, for programs that hold no private keys.

The socket is a connected one (client) or an accepted one (server). After a successful call it is ready for sendmsg and
recvmsg.
"""

import asyncio
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.errors import FramingError, HandshakedError, Status
from handshaked.model import AuthMode, Outcome, Role
from handshaked.shim.exchange import DEFAULT_TIMEOUT, GRACE, NO_ANSWER, outcome_of
from handshaked.shim.regular_files import open_regular
from handshaked.system import directories
from handshaked.system.connecting import connect
from handshaked.wire.attached import push_descriptors
from handshaked.wire.family import pull_from_daemon, push_start
from handshaked.wire.messages import MAX_PACKET, Done, Malformed, Refused, Start


class HandshakeRefusedError(HandshakedError, OSError):
    """A handshake on a QUIC socket failed.

    ``errno`` is the outcome's status, ``strerror`` its reason, ``outcome`` the whole Outcome.
    """

    def __init__(self, outcome: Outcome) -> None:
        OSError.__init__(self, outcome.status, outcome.reason or os.strerror(outcome.status))
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class QuicSocketOptions:
    """Options of a handshake on a QUIC socket; the fields that Start also has mean the same there.

    ``timeout`` is in seconds. ``certificate`` with ``key``, or ``psk``, are paths of files to use instead of a
    registration. ``path`` is the daemon's handshake socket.
    """

    timeout: float = DEFAULT_TIMEOUT
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

    @property
    def files(self) -> list[Path]:
        """The files to pass to the daemon, in the order of the protocol."""
        return [file for file in (self.certificate, self.key, self.psk) if file is not None]


def quic_client_handshake(
    sock: socket.socket | int,
    server_name: str | None = None,
    alpns: tuple[str, ...] = (),
    options: QuicSocketOptions = QuicSocketOptions(),
) -> Outcome:
    """Do the client's handshake on `sock` and return its outcome. HandshakeRefusedError if it fails.

    `server_name` is sent (if it is a name, not an address) and verified. Without `alpns` the socket's option ALPN
    applies.
    """
    return _handshake(sock, _start(Role.CLIENT, server_name, alpns, options), options)


def quic_server_handshake(
    sock: socket.socket | int,
    alpns: tuple[str, ...] = (),
    options: QuicSocketOptions = QuicSocketOptions(),
) -> Outcome:
    """Do the server's handshake on `sock` and return its outcome. HandshakeRefusedError if it fails.

    `alpns` limit which protocols are served; without them the socket's option ALPN applies.
    """
    return _handshake(sock, _start(Role.SERVER, None, alpns, options), options)


async def quic_client_handshake_async(
    sock: socket.socket | int,
    server_name: str | None = None,
    alpns: tuple[str, ...] = (),
    options: QuicSocketOptions = QuicSocketOptions(),
) -> Outcome:
    """Do what ``quic_client_handshake`` does, without blocking the event loop. Cancellation aborts the handshake."""
    return await _handshake_async(sock, _start(Role.CLIENT, server_name, alpns, options), options)


async def quic_server_handshake_async(
    sock: socket.socket | int,
    alpns: tuple[str, ...] = (),
    options: QuicSocketOptions = QuicSocketOptions(),
) -> Outcome:
    """Do what ``quic_server_handshake`` does, without blocking the event loop. Cancellation aborts the handshake."""
    return await _handshake_async(sock, _start(Role.SERVER, None, alpns, options), options)


def _start(role: Role, server_name: str | None, alpns: tuple[str, ...], options: QuicSocketOptions) -> Start:
    return Start(
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


def _handshake(sock: socket.socket | int, start: Start, options: QuicSocketOptions) -> Outcome:
    deadline = time.monotonic() + options.timeout + GRACE
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        _send_start(daemon, sock, start, options)
        poller = select.poll()  # select.select cannot handle descriptors above 1023
        poller.register(daemon, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            with _errors_as_refusal("lost the connection to the handshake daemon"):
                packet = daemon.recv(MAX_PACKET)
            outcome = _outcome(packet)
            if outcome is not None:
                return _successful(outcome)
    raise HandshakeRefusedError(NO_ANSWER)


async def _handshake_async(sock: socket.socket | int, start: Start, options: QuicSocketOptions) -> Outcome:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.setblocking(False)
        _send_start(daemon, sock, start, options)
        try:
            async with asyncio.timeout(options.timeout + GRACE):
                while True:
                    with _errors_as_refusal("lost the connection to the handshake daemon"):
                        packet = await loop.sock_recv(daemon, MAX_PACKET)
                    outcome = _outcome(packet)
                    if outcome is not None:
                        return _successful(outcome)
                    await asyncio.sleep(0)  # sock_recv does not wait while packets come, so nothing else would run
        except TimeoutError:
            raise HandshakeRefusedError(NO_ANSWER) from None


def _send_start(daemon: socket.socket, sock: socket.socket | int, start: Start, options: QuicSocketOptions) -> None:
    """Connect the socket `daemon` to the daemon and send `start` with the descriptors of `sock` and the files."""
    path = options.path or directories.handshake_socket()
    with ExitStack() as stack:
        descriptors = [sock if isinstance(sock, int) else sock.fileno()]
        for file in options.files:
            with _errors_as_refusal(f"cannot open {file}"):
                descriptors.append(stack.enter_context(open_regular(file)).fileno())
        with _errors_as_refusal(f"cannot connect to the handshake daemon at {path}"):
            connect(daemon, path)
        with _errors_as_refusal("cannot send to the handshake daemon"):
            daemon.sendmsg([push_start(1, start)], push_descriptors(descriptors), socket.MSG_NOSIGNAL)


@contextmanager
def _errors_as_refusal(what: str) -> Iterator[None]:
    """Turn an OSError in the body into a HandshakeRefusedError whose reason begins with `what`."""
    try:
        yield
    except OSError as error:
        status = Status.TIMED_OUT if isinstance(error, BlockingIOError) else error.errno or Status.FAILED
        words = os.strerror(status) if error.errno else str(error)  # Python's "AF_UNIX path too long" has no errno
        raise HandshakeRefusedError(Outcome(status, reason=f"{what}: {words}")) from None


def _outcome(packet: bytes) -> Outcome | None:
    if not packet:
        return Outcome(status=Status.PEER_GONE, reason="the handshake daemon closed the connection")
    try:
        for _, message in pull_from_daemon(packet):
            if isinstance(message, Done | Refused | Malformed):
                return outcome_of(message)
    except FramingError as error:
        return Outcome(reason=f"malformed packet from the daemon: {error.reason}")
    return None


def _successful(outcome: Outcome) -> Outcome:
    if outcome.status:
        raise HandshakeRefusedError(outcome)
    return outcome
