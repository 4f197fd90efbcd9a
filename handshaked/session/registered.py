"""A QUIC handshake that selects its credential from a snapshot of the registry.

No I/O and no clock: sessions take bytes and the time, and return events in the order of ``handshaked.events``. Any
error ends a session with HandshakeFailed, which is the last event.
"""

from collections.abc import Callable
from typing import Protocol

from handshaked.errors import Alert, CallerError, HandshakeError, PeerError, RefusedError, Status
from handshaked.events import Event, HandshakeFailed, PeerTransportParameters
from handshaked.model import DEFAULT_CIPHER_SUITES, AuthMode, Level, Request, Role
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
from handshaked.tls.x509.host_names import canonical_host_name, ip_address

MAX_TRANSPORT_PARAMETERS = 4096


class Resources(Protocol):
    """Provides what a session needs; each method may raise HandshakeError."""

    @property
    def keylog(self) -> KeyLog | None:
        """The key log, or None."""
        ...

    def credential(self, identity: int, /) -> Credential:
        """Return the credential with the id `identity`."""
        ...

    def server_verifier(self, request: Request) -> PeerVerifier:
        """Return the verifier of the server of a client's request."""
        ...

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        """Return the parameters that a server continues with after `selection`."""
        ...


class Session:
    """A handshake of either role; ``open_session`` creates it. Times are in Unix seconds."""

    def __init__(self) -> None:
        self._over = False

    def start(self, now: float) -> list[Event]:
        """Start: a client returns its ClientHello, a server nothing."""
        return self._guarded(lambda: self._start(now))

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Process CRYPTO `data` received at `level`."""
        return self._guarded(lambda: self._receive(level, data, now))

    def proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        """Continue with a server's own `transport_parameters`, if the request did not contain them."""
        return self._guarded(lambda: self._proceed(transport_parameters, now))

    @property
    def registration(self) -> str | None:
        """The name of the selected registration, or None before the selection."""
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
            Alert.INTERNAL_ERROR, "a client must pass its transport parameters when it starts", Status.INVALID
        )


class ServerSession(Session):
    """A server's handshake, with the snapshot that is current at its start."""

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
        """The name of the selected registration, or None before the selection."""
        return None if self._selection is None else self._selection.registration.name

    def _start(self, now: float) -> list[Event]:
        _check_auth_mode(self._request)
        if self._request.transport_parameters is not None:
            self._transport_parameters = _checked(self._request.transport_parameters)
        return []

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        events = self._engine.receive(level, data, now)
        if self._selection is None and self._engine.client_hello is not None:
            return [*events, *self._select(self._engine.client_hello, now)]
        return events

    def _select(self, hello: ClientHello, now: float) -> list[Event]:
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
            raise CallerError(Alert.INTERNAL_ERROR, "transport parameters were passed twice", Status.INVALID)
        self._transport_parameters = _checked(transport_parameters)
        return self._answer(now)

    def _answer(self, now: float) -> list[Event]:
        """Return the server's flight once the selection and the own transport parameters are known."""
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
            raise _invalid("a client needs at least one ALPN (RFC 9001 section 8.1)")
        if request.transport_parameters is None:
            raise _invalid("a client needs transport parameters when it starts (RFC 9001 section 8.2)")
        verifies = request.auth_mode is not AuthMode.UNAUTH  # UNSPEC verifies, too
        if verifies and not request.server_name:
            raise _invalid("a client that verifies its server needs a server name; or use auth mode unauth")
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
            raise _invalid(f"no registration {name!r} that {self._request.caller} may use", Status.NO_KEY)
        leaf_digest = self._request.credential
        for reference in registration.credentials:
            if leaf_digest in (None, reference.leaf_digest):
                return self._resources.credential(reference.id)
        raise _invalid(f"registration {name!r} has no such credential", Status.NO_KEY)

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        if self._engine is None:
            raise _invalid("CRYPTO data before the session was started")
        return self._engine.receive(level, data, now)


def open_session(request: Request, snapshot: Snapshot, resources: Resources) -> Session:
    """Return the session of `request`, which keeps `snapshot` to its end."""
    if request.role is Role.SERVER:
        return ServerSession(request, snapshot, resources)
    return ClientSession(request, snapshot, resources)


def _check_auth_mode(request: Request) -> None:
    if request.auth_mode is AuthMode.PSK:
        raise _invalid("pre-shared keys are not supported here: use auth mode x509", Status.UNSUPPORTED)


def client_host(name: str) -> str:
    """Return the host name or IP address `name` as it is sent and verified. CallerError if it is neither."""
    try:
        return str(ip_address(name) or canonical_host_name(name))
    except RefusedError as error:
        raise _invalid(str(error)) from None


def _checked(transport_parameters: bytes) -> bytes:
    if len(transport_parameters) > MAX_TRANSPORT_PARAMETERS:
        raise _invalid(f"transport parameters of {len(transport_parameters)} bytes, limit {MAX_TRANSPORT_PARAMETERS}")
    return transport_parameters


def _invalid(reason: str, status: int = Status.INVALID) -> CallerError:
    return CallerError(Alert.INTERNAL_ERROR, reason, status)
