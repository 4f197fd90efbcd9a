"""The handshake socket as an endpoint sees it, message by message, and handshakes on it."""

import asyncio
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from handshaked.callers.account import Limits
from handshaked.callers.log_limit import LogLimit
from handshaked.datapath.driver import Observer
from handshaked.events import CryptoData, PeerTransportParameters, TrafficSecret
from handshaked.handshakes.quic_sockets import OpenSocket, QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.model import AuthMode, Outcome, Role
from handshaked.upcall.unix import UnixSource
from handshaked.wire.attached import push_descriptors
from handshaked.wire.family import pull_from_daemon, push_crypto, push_start
from handshaked.wire.messages import MAX_PACKET, Acknowledged, Done, FromDaemon, LookupAnswer, Malformed, Refused, Start
from tests.patience import PATIENCE, join, set_in_time, until
from tests.registered import Registered

PARAMETERS = b"transport parameters"


class GoneError(Exception):
    """The daemon closed the connection."""


class HandshakeChannel:
    """A connection to the handshake socket; received messages are kept by sequence number. A context manager."""

    def __init__(self, path: Path | socket.socket) -> None:
        if isinstance(path, socket.socket):
            self.sock = path
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self.sock.connect(str(path))
            except OSError:
                self.sock.close()
                raise
        self.sock.settimeout(PATIENCE)
        self.inbox: defaultdict[int, list[FromDaemon]] = defaultdict(list)
        self.packets = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *messages: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send `messages` in one packet."""
        self.sock.sendmsg([b"".join(messages)], push_descriptors(descriptors))

    def receive(self) -> None:
        """Receive one packet."""
        packet = self.sock.recv(MAX_PACKET)
        if not packet:
            raise GoneError
        self.packets += 1
        for sequence, message in pull_from_daemon(packet):
            assert not isinstance(message, Malformed), message
            self.inbox[sequence].append(message)

    def until(self, sequence: int, kind: type[FromDaemon]) -> list[FromDaemon]:
        """Remove and return the messages for `sequence` up to the first one of `kind`."""
        while True:
            inbox = self.inbox[sequence]
            for index, message in enumerate(inbox):
                if isinstance(message, kind):
                    self.inbox[sequence] = inbox[index + 1 :]
                    return inbox[: index + 1]
            self.receive()

    def outcome(self, sequence: int) -> Outcome:
        """Return the outcome of the handshake `sequence`."""
        done = self.until(sequence, Done)[-1]
        assert isinstance(done, Done)
        return done.outcome

    def refusal(self, sequence: int) -> Refused:
        """Return the error that answers `sequence`."""
        refused = self.until(sequence, Refused)[-1]
        assert isinstance(refused, Refused)
        return refused

    def answer(self, sequence: int) -> LookupAnswer:
        """Return the answer to the lookup `sequence`."""
        answer = self.until(sequence, LookupAnswer)[-1]
        assert isinstance(answer, LookupAnswer)
        return answer

    def closed(self) -> bool:
        """Return whether the daemon closes the connection, possibly after further messages."""
        try:
            while True:
                self.receive()
        except (GoneError, ConnectionError):
            return True


def client_start(name: str | None, *alpns: bytes, **options: object) -> Start:
    """Return the START of a client that verifies nobody."""
    asked = {"auth_mode": AuthMode.UNAUTH, "transport_parameters": PARAMETERS, **options}
    return Start(Role.CLIENT, server_name=name, alpns=alpns, **asked)  # type: ignore[arg-type] # by name


def server_start(**options: object) -> Start:
    """Return the START of a server for any registration."""
    return Start(Role.SERVER, **{"transport_parameters": PARAMETERS, **options})  # type: ignore[arg-type] # by name


def client_hello(channel: HandshakeChannel, sequence: int, start: Start) -> CryptoData:
    """Start a client handshake as `sequence`; return its ClientHello."""
    channel.send(push_start(sequence, start, ack=True))
    (hello,) = [message for message in channel.until(sequence, Acknowledged) if isinstance(message, CryptoData)]
    return hello


def shake_hands(
    channel: HandshakeChannel, client: int, server: int, client_asks: Start, server_asks: Start
) -> tuple[Outcome, Outcome]:
    """Run a client's and a server's handshake on `channel` against each other; return their outcomes.

    CRYPTO data for a finished side, such as session tickets, stays in the inbox of the other.
    """
    channel.send(push_start(server, server_asks), push_start(client, client_asks))
    finished: dict[int, Outcome] = {}
    other = {client: server, server: client}
    while len(finished) < 2:
        for sequence in (client, server):
            messages, channel.inbox[sequence] = channel.inbox[sequence], []
            for message in messages:
                if isinstance(message, CryptoData):
                    if other[sequence] in finished:
                        channel.inbox[sequence].append(message)
                        continue
                    channel.send(push_crypto(other[sequence], message))
                elif isinstance(message, Done):
                    finished[sequence] = message.outcome
                    if message.outcome.status and other[sequence] not in finished:
                        return finished.get(client, Outcome()), finished.get(server, Outcome())
        if len(finished) < 2:
            channel.receive()
    return finished[client], finished[server]


def secrets_of(messages: list[FromDaemon]) -> list[TrafficSecret]:
    """Return the secrets in `messages`."""
    return [message for message in messages if isinstance(message, TrafficSecret)]


def parameters_of(messages: list[FromDaemon]) -> list[PeerTransportParameters]:
    """Return the peer's transport parameters in `messages`."""
    return [message for message in messages if isinstance(message, PeerTransportParameters)]


def eventually(what: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Return whether `what` becomes true in time."""
    deadline = time.monotonic() + seconds
    never = threading.Event()
    while not what():
        if time.monotonic() > deadline:
            return False
        never.wait(0.02)
    return True


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Act as another user, whose credentials the kernel attests for new connections."""
    own = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


@contextmanager
def served(
    registered: Registered,
    path: Path,
    limits: Limits,
    open_socket: OpenSocket | None = None,
    observe: Observer = lambda *_: None,
) -> Iterator[HandshakeService]:
    """Serve the handshake socket at `path` in a thread, with its own limits; with `open_socket` also on sockets."""
    ready = threading.Event()
    made: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, HandshakeService]] = []

    async def serve() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            os.chmod(path, 0o666)  # noqa: S103 - as the daemon's
            listener.listen()
            service = HandshakeService(registered.snapshot, registered, observe)
            sockets = None if open_socket is None else QuicSocketHandshakes(service, open_socket)
            source = UnixSource(listener, service, limits, LogLimit(), sockets)
            over = asyncio.Event()
            made.append((asyncio.get_running_loop(), over, service))
            ready.set()
            await until(over)
            source.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    set_in_time(ready)
    loop, over, service = made[0]
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(over.set)
        join(thread)
