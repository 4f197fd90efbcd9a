"""Handshakes by aioquic.tls, behind the interface of the engine that is to replace it.

aioquic runs a server's whole first flight in one go, so the ClientHello is parsed here first and held until the
caller has chosen. Nothing of aioquic leaves this module.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError  # aioquic.buffer re-exports them in no way mypy accepts
from cryptography import x509

from handshaked.errors import Alert, PeerError
from handshaked.events import CryptoData, Event, HandshakeComplete, PeerTransportParameters, TrafficSecret
from handshaked.model import CipherSuite, Direction, Level
from handshaked.tls.parameters import ClientHello, ClientParameters, Credential, ServerParameters
from handshaked.tls.reassembly import MessageReassembler

_TRANSPORT_PARAMETERS = 0x39
_LEVELS = {
    tls.Epoch.INITIAL: Level.INITIAL,
    tls.Epoch.ZERO_RTT: Level.EARLY,
    tls.Epoch.HANDSHAKE: Level.HANDSHAKE,
    tls.Epoch.ONE_RTT: Level.APPLICATION,
}
_DIRECTIONS = {tls.Direction.ENCRYPT: Direction.SEND, tls.Direction.DECRYPT: Direction.RECEIVE}
_OUTPUT = 256 * 1024  # room for a flight: a chain of 16 large certificates fits


class _Context:
    """One aioquic context whose callbacks and buffers are turned into events."""

    def __init__(self, context: tls.Context, transport_parameters: bytes | None) -> None:
        self.tls = context
        self.tls.update_traffic_key_cb = self._on_secret
        if transport_parameters is not None:
            self.tls.handshake_extensions = [(_TRANSPORT_PARAMETERS, transport_parameters)]
        self._buffers = {
            tls.Epoch.INITIAL: Buffer(capacity=_OUTPUT),
            tls.Epoch.HANDSHAKE: Buffer(capacity=_OUTPUT),
            tls.Epoch.ONE_RTT: Buffer(capacity=_OUTPUT),
        }
        self.secrets: list[TrafficSecret] = []

    def handle(self, message: bytes) -> None:
        """Feed one whole handshake message; empty starts a client."""
        with _alerts():
            self.tls.handle_message(message, self._buffers)

    def output(self, epoch: tls.Epoch) -> list[Event]:
        """What was written at `epoch` since the last call."""
        buffer = self._buffers[epoch]
        data = buffer.data
        buffer.seek(0)
        return [CryptoData(_LEVELS[epoch], data)] if data else []

    def take_secrets(self) -> list[Event]:
        """The secrets derived since the last call."""
        secrets: list[Event] = [*self.secrets]
        self.secrets.clear()
        return secrets

    def _on_secret(self, direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes) -> None:
        self.secrets.append(TrafficSecret(_LEVELS[epoch], _DIRECTIONS[direction], CipherSuite(suite), secret))


class ServerHandshake:
    """A server's handshake. ``client_hello`` is set once it is complete; ``proceed`` then goes on."""

    def __init__(self) -> None:
        self.client_hello: ClientHello | None = None
        self._message = b""
        self._messages = MessageReassembler(Level.INITIAL)
        self._context: _Context | None = None
        self._alpn: bytes | None = None

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Take in CRYPTO `data` of `level`; `now` is in Unix seconds."""
        self._messages.receive(level, data)
        events: list[Event] = []
        while (message := self._messages.pull()) is not None:
            if self.client_hello is None:
                self.client_hello = pull_client_hello(message)
                self._message = message
            elif self._context is None:
                raise PeerError(Alert.UNEXPECTED_MESSAGE, "handshake data behind the ClientHello")
            else:
                events += self._finish(self._context, message)
        return events

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        """Answer the ClientHello with `parameters`."""
        context = tls.Context(
            is_client=False,
            alpn_protocols=None if parameters.alpn is None else [parameters.alpn.decode("latin-1")],
            cipher_suites=_suites(parameters.cipher_suites),
        )
        assert parameters.credential is not None  # noqa: S101 - the session gives one always
        _install(context, parameters.credential)
        self._context = _Context(context, parameters.transport_parameters)
        self._alpn = parameters.alpn
        self._messages.expect(Level.HANDSHAKE)
        self._context.handle(self._message)
        self._message = b""
        handshake, application = _split(self._context.take_secrets())
        handshake_flight = self._context.output(tls.Epoch.HANDSHAKE)
        return [*self._context.output(tls.Epoch.INITIAL), *handshake, *handshake_flight, *application]

    def _finish(self, context: _Context, message: bytes) -> list[Event]:
        context.handle(message)
        if context.tls.state is not tls.State.SERVER_POST_HANDSHAKE:
            return []
        assert self.client_hello is not None  # noqa: S101 - for the type checker: there is a context
        self._messages.expect(Level.APPLICATION)
        complete = HandshakeComplete(
            alpn=self._alpn,
            server_name=self.client_hello.server_name,
            cipher_suite=_cipher_suite(context),
            resumed=False,
        )
        return [*context.take_secrets(), complete]


class ClientHandshake:
    """A client's handshake."""

    def __init__(self, parameters: ClientParameters) -> None:
        self._parameters = parameters
        self._messages = MessageReassembler(Level.INITIAL)
        context = tls.Context(
            is_client=True,
            alpn_protocols=[alpn.decode("latin-1") for alpn in parameters.alpns] or None,
            cipher_suites=_suites(parameters.cipher_suites),
            # aioquic wants a name even where nobody checks it; an address keeps it out of the SNI extension.
            server_name=parameters.server_name or "0.0.0.0",  # noqa: S104 - not an address to bind
            verify_mode=ssl.CERT_NONE,  # the verifier of the parameters decides
        )
        if parameters.credential is not None:
            _install(context, parameters.credential)
        self._context = _Context(context, parameters.transport_parameters)
        self._chain: tuple[bytes, ...] = ()

    def start(self, now: float) -> list[Event]:
        """The ClientHello."""
        self._context.handle(b"")
        return self._context.output(tls.Epoch.INITIAL)

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Take in CRYPTO `data` of `level`; `now` is in Unix seconds."""
        self._messages.receive(level, data)
        events: list[Event] = []
        while (message := self._messages.pull()) is not None:
            events += self._handle(message, now)
        return events

    def _handle(self, message: bytes, now: float) -> list[Event]:
        before = self._context.tls.state
        if before is tls.State.CLIENT_EXPECT_FINISHED:
            return self._finish(message)
        if before is tls.State.CLIENT_POST_HANDSHAKE and message[0] != tls.HandshakeType.NEW_SESSION_TICKET:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "only session tickets may follow the handshake on QUIC")
        self._context.handle(message)
        after = self._context.tls.state
        if before is tls.State.CLIENT_EXPECT_SERVER_HELLO:
            self._messages.expect(Level.HANDSHAKE)
        elif before is tls.State.CLIENT_EXPECT_ENCRYPTED_EXTENSIONS:
            return [self._peer_transport_parameters()]
        elif after is tls.State.CLIENT_EXPECT_CERTIFICATE_VERIFY:
            self._chain = _pull_chain(message)
        elif before is tls.State.CLIENT_EXPECT_CERTIFICATE_VERIFY and self._parameters.verifier is not None:
            self._parameters.verifier.verify(self._chain, self._parameters.server_name or "", now)
        return self._context.take_secrets()

    def _finish(self, message: bytes) -> list[Event]:
        self._context.handle(message)
        self._messages.expect(Level.APPLICATION)
        alpn = self._context.tls.alpn_negotiated
        complete = HandshakeComplete(
            alpn=None if alpn is None else alpn.encode("latin-1"),
            server_name=self._parameters.server_name,
            cipher_suite=_cipher_suite(self._context),
            resumed=False,
            peer_certificates=self._chain,
        )
        return [*self._context.take_secrets(), *self._context.output(tls.Epoch.HANDSHAKE), complete]

    def _peer_transport_parameters(self) -> PeerTransportParameters:
        if self._context.tls.alpn_negotiated is None:
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the server selected no application protocol")
        parameters = _transport_parameters(self._context.tls.received_extensions or [])
        if parameters is None:
            raise PeerError(Alert.MISSING_EXTENSION, "the server sent no QUIC transport parameters")
        return PeerTransportParameters(parameters, self._context.tls.alpn_negotiated.encode("latin-1"))


def pull_client_hello(message: bytes) -> ClientHello:
    """What a server chooses by, out of a whole ClientHello `message` with its header; PeerError if it is malformed."""
    if message[0] != tls.HandshakeType.CLIENT_HELLO:
        raise PeerError(Alert.UNEXPECTED_MESSAGE, f"handshake message {message[0]} where a ClientHello is due")
    with _alerts():
        hello = tls.pull_client_hello(Buffer(data=message))
    return ClientHello(
        server_name=hello.server_name,
        alpns=tuple(alpn.encode("latin-1") for alpn in hello.alpn_protocols or ()),
        signature_schemes=tuple(hello.signature_algorithms or ()),
        transport_parameters=_transport_parameters(hello.other_extensions),
    )


def _pull_chain(message: bytes) -> tuple[bytes, ...]:
    with _alerts():
        return tuple(certificate for certificate, _ in tls.pull_certificate(Buffer(data=message)).certificates)


def _transport_parameters(extensions: list[tuple[int, bytes]]) -> bytes | None:
    return next((body for kind, body in extensions if kind == _TRANSPORT_PARAMETERS), None)


def _install(context: tls.Context, credential: Credential) -> None:
    context.certificate, *context.certificate_chain = map(x509.load_der_x509_certificate, credential.chain)
    # The registry admits only keys that sign; ML-DSA, which aioquic lacks, it does not admit yet.
    context.certificate_private_key = credential.private_key  # type: ignore[assignment] # see above


def _cipher_suite(context: _Context) -> CipherSuite:
    assert context.tls.key_schedule is not None  # noqa: S101 - for the type checker: the handshake is complete
    return CipherSuite(context.tls.key_schedule.cipher_suite)


def _suites(suites: tuple[CipherSuite, ...]) -> list[tls.CipherSuite]:
    return [tls.CipherSuite(suite) for suite in suites]


def _split(secrets: list[Event]) -> tuple[list[Event], list[Event]]:
    application = [event for event in secrets if isinstance(event, TrafficSecret) and event.level is Level.APPLICATION]
    return [event for event in secrets if event not in application], [*application]


@contextmanager
def _alerts() -> Iterator[None]:
    """Turn what aioquic raises into our errors."""
    try:
        yield
    except tls.Alert as alert:
        raise PeerError(Alert(int(alert.description)), str(alert) or type(alert).__name__) from None
    except BufferReadError:
        raise PeerError(Alert.DECODE_ERROR, "a handshake message ends before its content") from None
    except (ValueError, AssertionError, TypeError, IndexError, AttributeError) as error:
        # aioquic checks some input by such errors: from it they say that the peer's message is bad.
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"unacceptable handshake message ({type(error).__name__})") from None
