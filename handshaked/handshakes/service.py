"""The service that upcall sources use: drivers for requests, and lookups, from the current snapshot."""

import time
from collections.abc import Callable, Generator

from handshaked.datapath.driver import Attempt, DataPath, Driver, Observer
from handshaked.errors import Alert, PeerError
from handshaked.model import Caller, Level, Outcome, Request
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.registry.snapshot import Query, Selection, Snapshot
from handshaked.session.registered import Resources, open_session
from handshaked.tls.parameters import ClientHello
from handshaked.tls.server import ServerHandshake


class HandshakeService:
    """Opens drivers. ``snapshot`` may be replaced at any time: a handshake keeps the one that it began with."""

    def __init__(self, snapshot: Snapshot, resources: Resources, observe: Observer) -> None:
        self.snapshot = snapshot
        self.in_flight = 0
        self.resources = resources
        self._observe = observe
        self._on_idle: Callable[[], object] = lambda: None

    def open(self, request: Request, data_path: DataPath) -> Driver:
        """Return the driver for `request`, not started."""
        session = open_session(request, self.snapshot, self.resources)
        driver = Driver(request, session, data_path, self._ended)
        self.in_flight += 1
        return driver

    def attempt(
        self, request: Request, finish: Callable[[Outcome], None], registration: Callable[[], str | None]
    ) -> Attempt:
        """Return the attempt at `request` for a data path that owns its session; arguments as for ``Attempt``."""
        attempt = Attempt(request, finish, self._ended, registration)
        self.in_flight += 1
        return attempt

    def look_up(self, caller: Caller, client_hello: bytes) -> tuple[ClientHello, Selection]:
        """Return what a ClientHello would select for `caller`.

        PeerError if no registration serves it, or if it is malformed.
        """
        engine = ServerHandshake()
        engine.receive(Level.INITIAL, client_hello, time.time())
        hello = engine.client_hello
        if hello is None:
            raise PeerError(Alert.DECODE_ERROR, "the ClientHello is incomplete")
        return hello, self.snapshot.select(Query(caller, hello.server_name, hello.alpns, hello.signature_schemes))

    def when_idle(self, call: Callable[[], object]) -> None:
        """Call `call` whenever the last handshake in flight ends, and now if there is none."""
        self._on_idle = call
        if self.in_flight == 0:
            call()

    def _ended(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self.in_flight -= 1
        self._observe(request, outcome, seconds)
        if self.in_flight == 0:
            self._on_idle()


def assemble(datagrams: tuple[bytes, ...]) -> Generator[int, None, bytes]:
    """Return the ClientHello in QUIC `datagrams`, in steps for ``FairQueue``: one for each datagram.

    PeerError if it is incomplete or malformed.
    """
    assembler = ClientHelloAssembler()
    for datagram in datagrams:
        message = assembler.receive(datagram)
        if message is not None:
            return message
        yield 0
    raise PeerError(Alert.DECODE_ERROR, f"{len(datagrams)} datagrams contain no complete QUIC v1 or v2 ClientHello")
