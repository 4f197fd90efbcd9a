"""One handshake: asks the snapshot for a credential when the ClientHello is in, and yields ordered events.

No I/O and no clock: bytes and the time come in, events go out (their order: ``handshaked.events``). A fault of any
kind ends it with one HandshakeFailed, behind which nothing follows.
"""

import ipaddress
from collections.abc import Callable
from typing import Protocol

from handshaked.errors import Alert, CallerError, HandshakeError, PeerError, RefusedError, Status
from handshaked.events import Event, HandshakeFailed, PeerTransportParameters
from handshaked.model import DEFAULT_CIPHER_SUITES, AuthMode, Level, Request, Role
from handshaked.registry.names import canonical_server_name
from handshaked.registry.snapshot import Query, Selection, Snapshot
from handshaked.tls.client import ClientHandshake
from handshaked.tls.keylog import KeyLog
from handshaked.tls.parameters import (
    ClientHello,
    ClientParameters,
    Credential,
    PeerVerifier,
    ServerParameters,
)
from handshaked.tls.server import ServerHandshake

MAX_TRANSPORT_PARAMETERS = 4096


class Resources(Protocol):
    """Where a session gets what it needs; each may raise HandshakeError."""

    @property
    def keylog(self) -> KeyLog | None:
        """Where secrets are logged, if that was asked for."""
        ...

    def credential(self, identity: int, /) -> Credential:
        """The credential of an id."""
        ...

    def server_verifier(self, request: Request) -> PeerVerifier:
        """What verifies the server that a client's request is for."""
        ...

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        """With what a server goes on after the selection."""
        ...


class Session:
    """A handshake of either role; ``open_session`` makes the right one. Times are Unix seconds."""

    def __init__(self) -> None:
        self._over = False

    def start(self, now: float) -> list[Event]:
        """Begin: a client gives its ClientHello, a server nothing."""
        return self._guarded(lambda: self._start(now))

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Take in CRYPTO `data` received at `level`."""
        return self._guarded(lambda: self._receive(level, data, now))

    def proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        """Go on with a server's own `transport_parameters`, if the request did not bring them."""
        return self._guarded(lambda: self._proceed(transport_parameters, now))

    @property
    def registration(self) -> str | None:
        """The registration that was chosen, as soon as one is."""
        return None

    def _guarded(self, step: Callable[[], list[Event]]) -> list[Event]:
        if self._over:
            return []
        try:
            return step()
        except HandshakeError as error:
            self._over = True
            return [HandshakeFailed.of(error)]

    def _start(self, now: float) -> list[Event]:
        raise NotImplementedError

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        raise NotImplementedError

    def _proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        raise CallerError(
            Alert.INTERNAL_ERROR, "a client gives its transport parameters when it starts", Status.INVALID
        )


class ServerSession(Session):
    """A server's handshake, served out of the snapshot that is current when it begins."""

    def __init__(self, request: Request, snapshot: Snapshot, resources: Resources) -> None:
        super().__init__()
        self._request = request
        self._snapshot = snapshot
        self._resources = resources
        self._engine = ServerHandshake()
        self._selection: Selection | None = None
        self._transport_parameters: bytes | None = None

    @property
    def registration(self) -> str | None:
        """The registration that was chosen, as soon as one is."""
        return None if self._selection is None else self._selection.registration.name

    def _start(self, now: float) -> list[Event]:
        _check_auth_mode(self._request)
        if self._request.transport_parameters is not None:
            self._transport_parameters = _checked(self._request.transport_parameters)
        return []

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        events = self._engine.receive(level, data, now)
        if self._selection is None and self._engine.client_hello is not None:
            return [*events, *self._choose(self._engine.client_hello, now)]
        return events

    def _choose(self, hello: ClientHello, now: float) -> list[Event]:
        if not hello.alpns:
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the client offers no application protocol")
        if hello.transport_parameters is None:
            raise PeerError(Alert.MISSING_EXTENSION, "the client sent no QUIC transport parameters")
        self._selection = self._snapshot.select(
            Query(
                caller=self._request.caller,
                server_name=hello.server_name,
                alpns=hello.alpns,
                signature_schemes=hello.signature_schemes,
                served_alpns=self._request.alpns,
                registration=self._request.registration,
                credential=self._request.credential,
            )
        )
        return [
            PeerTransportParameters(hello.transport_parameters, self._selection.alpn),
            *self._answer(now),
        ]

    def _proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        if self._transport_parameters is not None:
            raise CallerError(Alert.INTERNAL_ERROR, "transport parameters were given twice", Status.INVALID)
        self._transport_parameters = _checked(transport_parameters)
        return self._answer(now)

    def _answer(self, now: float) -> list[Event]:
        """The server's flight, as soon as both the choice and the own transport parameters are there."""
        if self._selection is None or self._transport_parameters is None:
            return []
        parameters = self._resources.answer(self._request, self._selection, self._transport_parameters)
        return self._engine.proceed(parameters, now)


class ClientSession(Session):
    """A client's handshake; its server is verified unless the request is unauthenticated."""

    def __init__(self, request: Request, snapshot: Snapshot, resources: Resources) -> None:
        super().__init__()
        self._request = request
        self._snapshot = snapshot
        self._resources = resources
        self._engine: ClientHandshake | None = None

    def _start(self, now: float) -> list[Event]:
        request = self._request
        _check_auth_mode(request)
        if not request.alpns:
            raise _unfit("a client needs at least one ALPN (RFC 9001 section 8.1)")
        if request.transport_parameters is None:
            raise _unfit("a client needs transport parameters when it starts (RFC 9001 section 8.2)")
        verifies = request.auth_mode is not AuthMode.UNAUTH  # whatever is not asked to do without, verifies
        if verifies and not request.server_name:
            raise _unfit("a client that verifies its server needs a server name; or ask for auth mode unauth")
        self._engine = ClientHandshake(
            ClientParameters(
                alpns=request.alpns,
                server_name=client_host(request.server_name) if request.server_name else None,
                transport_parameters=_checked(request.transport_parameters),
                verifier=self._resources.server_verifier(request) if verifies else None,
                credential=self._client_credential(),
                cipher_suites=request.cipher_suites or DEFAULT_CIPHER_SUITES,
                session_ticket=request.session_ticket,
                early_data=request.early_data is not None,
                keylog=self._resources.keylog,
            )
        )
        return self._engine.start(now)

    def _client_credential(self) -> Credential | None:
        name = self._request.registration
        if name is None:
            return None
        registration = self._snapshot.named(name)
        if registration is None or not registration.allows(self._request.caller):
            raise _unfit(f"there is no registration {name!r} that {self._request.caller} may use", Status.NO_KEY)
        wanted = self._request.credential
        for reference in registration.credentials:
            if wanted in (None, reference.leaf_digest):
                return self._resources.credential(reference.id)
        raise _unfit(f"registration {name!r} has no such credential", Status.NO_KEY)

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        if self._engine is None:
            raise _unfit("CRYPTO data before the start")
        return self._engine.receive(level, data, now)


def open_session(request: Request, snapshot: Snapshot, resources: Resources) -> Session:
    """The session that runs `request`; it pins `snapshot`."""
    if request.role is Role.SERVER:
        return ServerSession(request, snapshot, resources)
    return ClientSession(request, snapshot, resources)


def _check_auth_mode(request: Request) -> None:
    if request.auth_mode is AuthMode.PSK:
        raise _unfit("there are no pre-shared keys: ask for auth mode x509", Status.UNSUPPORTED)


def client_host(name: str) -> str:
    """The host name or address `name` as it is sent and verified."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        if name.startswith("*"):
            raise RefusedError(f"a client asks for a server, not for {name!r}")
        return canonical_server_name(name)
    except RefusedError as error:
        raise _unfit(str(error)) from None


def _checked(transport_parameters: bytes) -> bytes:
    if len(transport_parameters) > MAX_TRANSPORT_PARAMETERS:
        raise _unfit(f"transport parameters of {len(transport_parameters)} bytes, limit {MAX_TRANSPORT_PARAMETERS}")
    return transport_parameters


def _unfit(reason: str, status: int = Status.INVALID) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, status)
