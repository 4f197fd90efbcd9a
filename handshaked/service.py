"""What the doors ask for: drivers for requests, and lookups, out of the snapshot of the moment."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from handshaked.driver import Attempt, DataPath, Driver, Observer
from handshaked.errors import Alert, CallerError, LocalError, PeerError, Status
from handshaked.model import Caller, Level, Outcome, Request
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.registry.snapshot import Query, Selection, Snapshot
from handshaked.session import CredentialLoader, open_session
from handshaked.tls.parameters import ClientHello, Credential, PeerVerifier
from handshaked.tls.server import ServerHandshake
from handshaked.tls.trust import TrustStore
from handshaked.tls.verification import ServerChainVerifier

SYSTEM_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
_CACHED_CREDENTIALS = 4096
_CACHED_TRUST_STORES = 64


class HandshakeService:
    """Opens drivers. ``snapshot`` may be replaced at any time: a handshake keeps the one it began with."""

    def __init__(self, snapshot: Snapshot, load_credential: CredentialLoader, observe: Observer) -> None:
        self.snapshot = snapshot
        self.in_flight = 0
        self._load_credential = lru_cache(maxsize=_CACHED_CREDENTIALS)(load_credential)
        self._observe = observe
        self._on_idle: Callable[[], object] = lambda: None

    def open(self, request: Request, data_path: DataPath) -> Driver:
        """The driver for `request`; the caller starts it."""
        session = open_session(request, self.snapshot, self._load_credential, _load_trust)
        driver = Driver(request, session, data_path, self._ended)
        self.in_flight += 1
        return driver

    def attempt(self, request: Request, data_path: DataPath) -> Attempt:
        """What runs `request` for a `data_path` that has a session of its own."""
        attempt = Attempt(request, data_path, self._ended)
        self.in_flight += 1
        return attempt

    def credential(self, identity: int) -> Credential:
        """The credential of a selection; LocalError if it cannot be had."""
        return self._load_credential(identity)

    def look_up(
        self, caller: Caller, client_hello: bytes | None, datagrams: tuple[bytes, ...]
    ) -> tuple[ClientHello, Selection]:
        """What a ClientHello (a whole handshake message, or the QUIC datagrams that hold it) would get from `caller`.

        PeerError if nothing serves it, or if it cannot be read.
        """
        engine = ServerHandshake()
        engine.receive(Level.INITIAL, _assemble(datagrams) if client_hello is None else client_hello, time.time())
        hello = engine.client_hello
        if hello is None:
            raise PeerError(Alert.DECODE_ERROR, "the ClientHello is not whole")
        return hello, self.snapshot.select(Query(caller, hello.server_name, hello.alpns, hello.signature_schemes))

    def forget_credentials(self) -> None:
        """Drop the keys kept at hand; those still registered are loaded again when they are needed."""
        self._load_credential.cache_clear()

    def when_idle(self, call: Callable[[], object]) -> None:
        """Call `call` each time no handshake is in flight, and now if none is."""
        self._on_idle = call
        if self.in_flight == 0:
            call()

    def _ended(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self.in_flight -= 1
        self._observe(request, outcome, seconds)
        if self.in_flight == 0:
            self._on_idle()


def _assemble(datagrams: tuple[bytes, ...]) -> bytes:
    assembler = ClientHelloAssembler()
    for datagram in datagrams:
        message = assembler.receive(datagram)
        if message is not None:
            return message
    raise PeerError(Alert.DECODE_ERROR, f"{len(datagrams)} datagrams hold no whole ClientHello of QUIC v1 or v2")


def _load_trust(request: Request) -> PeerVerifier:
    if not request.trust_anchors:
        return _system_trust()
    try:
        return _trust_in(request.trust_anchors)
    except ValueError as error:
        raise CallerError(
            Alert.INTERNAL_ERROR, f"a trust anchor of the request cannot be parsed: {error}", Status.INVALID
        ) from None


@lru_cache(maxsize=_CACHED_TRUST_STORES)
def _trust_in(anchors: tuple[bytes, ...]) -> PeerVerifier:
    return ServerChainVerifier(TrustStore.from_der(anchors))


@lru_cache(maxsize=1)
def _system_trust() -> PeerVerifier:
    try:
        return ServerChainVerifier(TrustStore.from_pem(SYSTEM_TRUST.read_bytes()))
    except (OSError, ValueError) as error:
        raise LocalError(f"the system's trust store {SYSTEM_TRUST} cannot be used: {error}", Status.NO_KEY) from None
