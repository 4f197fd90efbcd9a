"""The Unix door from an endpoint's side, message by message, and handshakes that go through it."""

import array
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
from handshaked.wire.family import pull_from_daemon, push_crypto, push_start
from handshaked.wire.messages import MAX_PACKET, Acknowledged, Done, FromDaemon, LookupAnswer, Malformed, Refused, Start
from tests.patience import PATIENCE, join, set_in_time, until
from tests.registered import Registered

PARAMETERS = b"transport parameters"


class GoneError(Exception):
    """The daemon closed the connection."""


class Door:
    """A connection to the door; what comes is kept by sequence number. A context manager."""

    def __init__(self, path: Path | socket.socket) -> None:
        if isinstance(path, socket.socket):
            self.sock = path
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.sock.connect(str(path))
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
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.sock.sendmsg([b"".join(messages)], control)

    def receive(self) -> None:
        """Take in one packet."""
        packet = self.sock.recv(MAX_PACKET)
        if not packet:
            raise GoneError
        self.packets += 1
        for sequence, message in pull_from_daemon(packet):
            assert not isinstance(message, Malformed), message
            self.inbox[sequence].append(message)

    def until(self, sequence: int, kind: type[FromDaemon]) -> list[FromDaemon]:
        """What has come for `sequence` up to the first message of `kind`, which is taken out with it."""
        while True:
            inbox = self.inbox[sequence]
            for index, message in enumerate(inbox):
                if isinstance(message, kind):
                    self.inbox[sequence] = inbox[index + 1 :]
                    return inbox[: index + 1]
            self.receive()

    def outcome(self, sequence: int) -> Outcome:
        """How the handshake `sequence` ended."""
        done = self.until(sequence, Done)[-1]
        assert isinstance(done, Done)
        return done.outcome

    def refusal(self, sequence: int) -> Refused:
        """The error that answers `sequence`."""
        refused = self.until(sequence, Refused)[-1]
        assert isinstance(refused, Refused)
        return refused

    def answer(self, sequence: int) -> LookupAnswer:
        """The answer to the lookup `sequence`."""
        answer = self.until(sequence, LookupAnswer)[-1]
        assert isinstance(answer, LookupAnswer)
        return answer

    def closed(self) -> bool:
        """Whether the daemon closes the connection, after whatever it still has to say."""
        try:
            while True:
                self.receive()
        except (GoneError, ConnectionError):
            return True


def client_start(name: str | None, *alpns: bytes, **options: object) -> Start:
    """A client that verifies nobody."""
    asked = {"auth_mode": AuthMode.UNAUTH, "transport_parameters": PARAMETERS, **options}
    return Start(Role.CLIENT, server_name=name, alpns=alpns, **asked)  # type: ignore[arg-type] # by name


def server_start(**options: object) -> Start:
    """A server that takes what comes."""
    return Start(Role.SERVER, **{"transport_parameters": PARAMETERS, **options})  # type: ignore[arg-type] # by name


def client_hello(door: Door, sequence: int, start: Start) -> CryptoData:
    """The ClientHello of a client handshake that is begun as `sequence`."""
    door.send(push_start(sequence, start, ack=True))
    (hello,) = [message for message in door.until(sequence, Acknowledged) if isinstance(message, CryptoData)]
    return hello


def shake_hands(
    door: Door, client: int, server: int, client_asks: Start, server_asks: Start
) -> tuple[Outcome, Outcome]:
    """Run a client's and a server's handshake through `door` against each other: their outcomes.

    CRYPTO data for a side that is done, as session tickets are, stays in the inbox of the other.
    """
    door.send(push_start(server, server_asks), push_start(client, client_asks))
    finished: dict[int, Outcome] = {}
    other = {client: server, server: client}
    while len(finished) < 2:
        for sequence in (client, server):
            messages, door.inbox[sequence] = door.inbox[sequence], []
            for message in messages:
                if isinstance(message, CryptoData):
                    if other[sequence] in finished:
                        door.inbox[sequence].append(message)
                        continue
                    door.send(push_crypto(other[sequence], message))
                elif isinstance(message, Done):
                    finished[sequence] = message.outcome
                    if message.outcome.status and other[sequence] not in finished:
                        return finished.get(client, Outcome()), finished.get(server, Outcome())
        if len(finished) < 2:
            door.receive()
    return finished[client], finished[server]


def secrets_of(messages: list[FromDaemon]) -> list[TrafficSecret]:
    """The secrets in `messages`."""
    return [message for message in messages if isinstance(message, TrafficSecret)]


def parameters_of(messages: list[FromDaemon]) -> list[PeerTransportParameters]:
    """The peer's transport parameters in `messages`."""
    return [message for message in messages if isinstance(message, PeerTransportParameters)]


def eventually(what: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether `what` becomes true in time."""
    deadline = time.monotonic() + seconds
    never = threading.Event()
    while not what():
        if time.monotonic() > deadline:
            return False
        never.wait(0.02)
    return True


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Be another user meanwhile: whom the kernel attests for what is connected."""
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
    """A door at `path` in a thread of this process, with limits of one's own; `open_socket` lets it serve sockets."""
    ready = threading.Event()
    made: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, HandshakeService]] = []

    async def serve() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            os.chmod(path, 0o666)  # noqa: S103 - as the daemon's
            listener.listen()
            service = HandshakeService(registered.snapshot, registered, observe)
            sockets = None if open_socket is None else QuicSocketHandshakes(service, open_socket)
            door = UnixSource(listener, service, limits, LogLimit(), sockets)
            over = asyncio.Event()
            made.append((asyncio.get_running_loop(), over, service))
            ready.set()
            await until(over)
            door.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    set_in_time(ready)
    loop, over, service = made[0]
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(over.set)
        join(thread)
