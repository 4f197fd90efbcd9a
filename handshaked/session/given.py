"""A QUIC handshake with given parameters instead of a registration: from the caller, or from the kernel's keys.

No I/O and no clock, and the same events, as in ``handshaked.session.registered``.
"""

from collections.abc import Callable
from dataclasses import replace

from handshaked.errors import Alert, CallerError, LocalError, PeerError, Status
from handshaked.events import Event, PeerTransportParameters
from handshaked.model import Level
from handshaked.session.registered import Session
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientHello, ClientParameters, ServerParameters
from handshaked.tls.server import ServerHandshake


class GivenServerSession(Session):
    """A server's handshake: `choose` returns the parameters for a ClientHello, or raises HandshakeError."""

    def __init__(self, choose: Callable[[ClientHello], ServerParameters]) -> None:
        super().__init__()
        self._choose = choose
        self._engine = ServerHandshake()
        self._parameters: ServerParameters | None = None

    @property
    def registration(self) -> str | None:
        """As in Session."""
        return None if self._parameters is None else self._parameters.registration

    def _start(self, now: float) -> list[Event]:
        return []

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        events = self._engine.receive(level, data, now)
        hello = self._engine.client_hello
        if self._parameters is not None or hello is None:
            return events
        if hello.transport_parameters is None:
            raise PeerError(Alert.MISSING_EXTENSION, "the client sent no QUIC transport parameters")
        self._parameters = self._choose(hello)
        return [*events, PeerTransportParameters(hello.transport_parameters, self._parameters.alpn or b"")]

    def _proceed(self, transport_parameters: bytes, now: float) -> list[Event]:
        if self._parameters is None:
            raise CallerError(
                Alert.INTERNAL_ERROR,
                "transport parameters were passed before the ClientHello was received",
                Status.INVALID,
            )
        parameters = replace(self._parameters, transport_parameters=transport_parameters)
        return self._engine.proceed(parameters, now)


class GivenClientSession(Session):
    """A client's handshake."""

    def __init__(self, parameters: ClientParameters) -> None:
        super().__init__()
        if not parameters.alpns:
            reason = "a client needs at least one ALPN (RFC 9001 section 8.1)"
            raise CallerError(Alert.INTERNAL_ERROR, reason, Status.INVALID)
        self._engine = ClientHandshake(parameters)

    def _start(self, now: float) -> list[Event]:
        return self._engine.start(now)

    def _receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        return self._engine.receive(level, data, now)


def choose_alpn(hello: ClientHello, served: tuple[bytes, ...]) -> bytes:
    """Return the client's first protocol that is `served`. PeerError if there is none (RFC 7301 section 3.2)."""
    if not served:
        raise LocalError("a server with its own certificate needs the ALPNs that it serves", Status.INVALID)
    for alpn in hello.alpns:
        if alpn in served:
            return alpn
    offered = b", ".join(hello.alpns).decode(errors="replace")
    raise PeerError(Alert.NO_APPLICATION_PROTOCOL, f"none of the client's protocols is served: {offered or 'none'}")
