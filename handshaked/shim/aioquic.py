"""aioquic with its TLS in the daemon: ``connect`` and ``serve`` of the same form as those of aioquic.asyncio.

This process never sees a private key. aioquic is sans-IO and runs TLS inside ``receive_datagram``; here that
question goes to the daemon, and until the answer is there the connection holds back: it neither sends nor handles
further datagrams, so that nothing is dropped for want of keys. Then the datagram that was interrupted is fed in
again: what was handled already aioquic knows by its packet number.

Session tickets are the daemon's: a server issues them as the registration has it, and the ticket that a client's
handler is given is opaque, good for another connection through a daemon.

What is touched of aioquic's private members is touched in this module, and nowhere else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import aioquic
from aioquic import tls
from aioquic.asyncio import client as aioquic_client
from aioquic.asyncio import server as aioquic_server
from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.asyncio.server import QuicServer
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, Status
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Direction, Level, Outcome, Role
from handshaked.shim import HandshakeClient, Message, PendingHandshake
from handshaked.wire.messages import Done, Start

_TESTED = ((1, 6), (1, 7))
_VERSION = tuple(int(part) for part in aioquic.__version__.split(".")[:2])
if not _TESTED[0] <= _VERSION <= _TESTED[1]:
    raise ImportError(
        f"aioquic {aioquic.__version__}: this adapter reaches into it, and was tested with 1.6 and 1.7 only"
    )

_TRANSPORT_PARAMETERS = tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS
_EPOCHS = {
    Level.INITIAL: tls.Epoch.INITIAL,
    Level.EARLY: tls.Epoch.ZERO_RTT,
    Level.HANDSHAKE: tls.Epoch.HANDSHAKE,
    Level.APPLICATION: tls.Epoch.ONE_RTT,
}
_LEVELS = {epoch: level for level, epoch in _EPOCHS.items()}
_DIRECTIONS = {Direction.SEND: tls.Direction.ENCRYPT, Direction.RECEIVE: tls.Direction.DECRYPT}
_MAX_HELD = 64
_IN_THE_DAEMON = object()
_MAX_TICKET = 65536
_TICKET_SECONDS = 10
_QUIC_EARLY_DATA = 0xFFFFFFFF  # RFC 9001 section 4.6.1


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    client: HandshakeClient,
    registration: str | None = None,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
    **options: Any,
) -> AsyncGenerator[QuicConnectionProtocol, None]:
    """As ``aioquic.asyncio.connect``, with TLS done by the daemon that `client` talks to.

    Trust anchors of `configuration` (cafile, cadata) go along, else the daemon's trust store decides. `registration`
    names the client certificate, if the server wants one. ValueError if `configuration` holds a private key.
    """
    _check(configuration)
    anchors = await asyncio.to_thread(_trust_anchors, configuration)
    create = partial(create_adapted, create_protocol, client, Options(registration, anchors))
    async with aioquic_client.connect(
        host, port, configuration=configuration, create_protocol=create, **options
    ) as protocol:
        yield protocol


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    client: HandshakeClient,
    registration: str | None = None,
    early_data: bytes | None = None,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
    **options: Any,
) -> QuicServer:
    """As ``aioquic.asyncio.serve``, with the certificate that is registered for the client's server name and ALPN.

    `configuration.alpn_protocols` (None: all) and `registration` (None: any that this user may use) limit the choice.
    `early_data` consents to 0-RTT where the registration allows it; its bytes stand for all that the data of an
    earlier visit relies on (limits, settings): change them with it. Early data can be replayed by an attacker at
    other daemons that share the ticket keys, so it must be harmless to do twice.
    ValueError if `configuration` holds a private key.
    """
    create = partial(create_adapted, create_protocol, client, Options(registration, (), early_data))
    return await aioquic_server.serve(
        host, port, configuration=server_configuration(configuration), create_protocol=create, **options
    )


def server_configuration(
    configuration: QuicConfiguration, connection_id_length: int | None = None
) -> QuicConfiguration:
    """`configuration` for a server whose TLS is in the daemon. ValueError if it holds a private key."""
    _check(configuration)
    # aioquic insists on a certificate and a key for a server; it gives them to the tls.Context that is replaced.
    return replace(
        configuration,
        certificate=_IN_THE_DAEMON,
        private_key=_IN_THE_DAEMON,
        connection_id_length=connection_id_length or configuration.connection_id_length,
    )


def outcome_of(protocol: QuicConnectionProtocol) -> Outcome | None:
    """How the daemon's handshake for `protocol` ended, with the peer's certificates; None while it runs."""
    remote: object = protocol._quic.tls
    return remote.outcome if isinstance(remote, _RemoteTls) else None


def create_adapted(
    create_protocol: Callable[..., QuicConnectionProtocol],
    client: HandshakeClient,
    options: "Options",
    connection: QuicConnection,
    stream_handler: QuicStreamHandler | None = None,
) -> QuicConnectionProtocol:
    """A protocol for `connection`, its TLS in the daemon."""
    protocol = create_protocol(connection, stream_handler=stream_handler)
    _Adapter(connection, protocol, client, options)
    return protocol


@dataclass(frozen=True, slots=True)
class Options:
    """What goes into a Start besides aioquic's configuration."""

    registration: str | None = None
    trust_anchors: tuple[bytes, ...] = ()
    early_data: bytes | None = None


class _RemoteTls:
    """Stands where aioquic has its tls.Context: the members aioquic uses, kept up to date by the adapter."""

    def __init__(self, local: tls.Context, adapter: "_Adapter", configuration: QuicConfiguration) -> None:
        self.server_name = configuration.server_name
        self.handshake_extensions = local.handshake_extensions
        self.session_ticket = local.session_ticket
        self.alpn_cb = local.alpn_cb
        self.update_traffic_key_cb = local.update_traffic_key_cb
        self.state = local.state
        self.alpn_negotiated: str | None = None
        self.early_data_accepted = False
        self.session_resumed = False
        self.received_extensions: list[tuple[int, bytes]] = []
        self.client_random = bytes(32)
        self.legacy_session_id = b""
        self.outcome: Outcome | None = None
        self.is_client = configuration.is_client
        self._adapter = adapter
        self._first = bytearray()
        self._tickets = bytearray()

    @property
    def transport_parameters(self) -> bytes:
        """The own transport parameters as aioquic has them at the moment."""
        return next(body for kind, body in self.handshake_extensions if kind == _TRANSPORT_PARAMETERS)

    def handle_message(self, data: bytes, _buffers: object) -> None:
        """aioquic's call into TLS."""
        if self.outcome is not None:
            self._behind_handshake(data)
            return
        if not self.is_client:
            self.note_client_hello(data)
        self._adapter.ask(data)

    def note_client_hello(self, data: bytes) -> None:
        """Keep what aioquic wants to know of the ClientHello: its random, and its legacy session ID."""
        if len(self._first) < 71:
            self._first += data[: 71 - len(self._first)]
            self.client_random = bytes(self._first[6:38])
            self.legacy_session_id = bytes(self._first[39 : 39 + self._first[38]]) if len(self._first) > 38 else b""

    def _behind_handshake(self, data: bytes) -> None:
        """Only a server's session tickets may come behind the handshake (RFC 9001 section 6)."""
        self._tickets += data
        while self._tickets:
            if not self.is_client or self._tickets[0] != tls.HandshakeType.NEW_SESSION_TICKET:
                raise tls.AlertUnexpectedMessage
            end = 4 + int.from_bytes(self._tickets[1:4])
            if end > _MAX_TICKET:
                raise tls.AlertDecodeError("session ticket too long")
            if len(self._tickets) < max(end, 4):
                return
            self._adapter.pass_ticket_on(bytes(self._tickets[:end]))
            del self._tickets[:end]


class _Adapter:
    """Puts the daemon between a connection and its TLS."""

    def __init__(
        self,
        connection: QuicConnection,
        protocol: QuicConnectionProtocol,
        client: HandshakeClient,
        options: Options,
    ) -> None:
        self._quic = cast("Any", connection)  # what is used of it is private to aioquic, and untyped
        self._protocol = cast("Any", protocol)
        self._client = client
        self._options = options
        self._is_client = connection.configuration.is_client
        self._handshake: PendingHandshake | None = None
        self._tls: _RemoteTls | None = None
        self._epoch = tls.Epoch.INITIAL
        self._awaiting = False
        self._planned = False
        self._held: deque[tuple[bytes, NetworkAddress]] = deque()
        self._original = {
            name: getattr(connection, name)
            for name in ("_initialize", "receive_datagram", "datagrams_to_send", "get_timer")
        }
        self._quic._initialize = self._initialize
        self._quic.receive_datagram = self._receive_datagram
        self._quic.datagrams_to_send = self._datagrams_to_send
        self._quic.get_timer = self._get_timer
        handlers = self._quic._QuicConnection__frame_handlers
        handle_crypto, epochs = handlers[QuicFrameType.CRYPTO]
        handlers[QuicFrameType.CRYPTO] = (partial(self._handle_crypto_frame, handle_crypto), epochs)

    # What aioquic calls.

    def _initialize(self, peer_cid: bytes) -> None:
        if self._handshake is not None:
            self._handshake.cancel("the connection begins anew, after Retry or Version Negotiation")
            self._handshake = None
        self._original["_initialize"](peer_cid)
        self._tls = _RemoteTls(self._quic.tls, self, self._quic.configuration)
        self._quic.tls = self._tls

    def _handle_crypto_frame(self, handle: Callable[..., None], context: Any, frame_type: int, buf: Any) -> None:
        self._epoch = context.epoch
        handle(context, frame_type, buf)

    def _receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        if self._holds_back:
            if len(self._held) < _MAX_HELD:
                self._held.append((data, addr))
            return
        self._original["receive_datagram"](data, addr, now)
        if self._awaiting:
            self._held.appendleft((data, addr))

    def _datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        return [] if self._holds_back else self._original["datagrams_to_send"](now)

    def _get_timer(self) -> float | None:
        timer: float | None = None if self._holds_back else self._original["get_timer"]()
        return timer

    @property
    def _holds_back(self) -> bool:
        closed = self._quic._close_event
        if closed is not None and self._handshake is not None:
            self._handshake.cancel(f"connection closed with {_error_text(closed.error_code)} {closed.reason_phrase!r}")
            self._handshake = None
            self._awaiting = False
        return self._awaiting

    # Towards the daemon.

    def ask(self, data: bytes) -> None:
        """Pass `data` on to the daemon, and hold back until it answers; the first call starts the handshake."""
        if self._handshake is None:
            try:
                self._handshake = self._client.start(self._start(), self._on_message, self._plan_to_go_on)
            except OSError as error:
                self._fail(
                    QuicConnectionError(
                        error_code=QuicErrorCode.INTERNAL_ERROR,
                        frame_type=QuicFrameType.CRYPTO,
                        reason_phrase=f"the handshake daemon cannot be asked: {error.strerror}",
                    )
                )
                return
        if data:
            self._handshake.receive(_LEVELS[self._epoch], data)
        self._awaiting = True

    def pass_ticket_on(self, message: bytes) -> None:
        """Let the daemon make a ticket of a NewSessionTicket `message`, if anybody wants one; nothing waits for it."""
        if self._handshake is not None:
            self._handshake.receive(Level.APPLICATION, message)

    def _start(self) -> Start:
        assert self._tls is not None  # noqa: S101 - for the type checker: _initialize comes first
        configuration: QuicConfiguration = self._quic.configuration
        ticket = self._tls.session_ticket
        return Start(
            role=Role.CLIENT if self._is_client else Role.SERVER,
            auth_mode=AuthMode.UNAUTH if configuration.verify_mode == 0 else AuthMode.X509,
            server_name=configuration.server_name if self._is_client else None,
            alpns=tuple(alpn.encode() for alpn in configuration.alpn_protocols or ()),
            # A server's parameters depend on the version, which the client's parameters decide.
            transport_parameters=self._tls.transport_parameters if self._is_client else None,
            registration=self._options.registration,
            cipher_suites=tuple(CipherSuite(suite) for suite in configuration.cipher_suites or ()),
            trust_anchors=self._options.trust_anchors,
            session_ticket=None if ticket is None else ticket.ticket,
            early_data=self._early_data(ticket),
            ticket_seconds=_TICKET_SECONDS if self._wants_tickets else 0,
        )

    @property
    def _wants_tickets(self) -> bool:
        return self._is_client and self._quic._session_ticket_handler is not None

    def _early_data(self, ticket: tls.SessionTicket | None) -> bytes | None:
        if not self._is_client:
            return self._options.early_data
        return b"" if ticket is not None and ticket.max_early_data_size is not None else None

    # From the daemon.

    def _on_message(self, message: Message) -> None:
        try:
            self._apply(message)
        except QuicConnectionError as error:
            self._fail(error)
        if self._quic._close_event is not None or isinstance(message, Done):
            self._plan_to_go_on()

    def _fail(self, error: QuicConnectionError) -> None:
        # aioquic does so itself with what is raised while it handles a packet, but a client also asks outside of that.
        self._quic.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)

    def _apply(self, message: Message) -> None:
        remote = self._tls
        assert remote is not None  # noqa: S101 - for the type checker: a handshake was started
        if isinstance(message, TrafficSecret):
            remote.update_traffic_key_cb(
                _DIRECTIONS[message.direction],
                _EPOCHS[message.level],
                tls.CipherSuite(message.cipher_suite),
                message.secret,
            )
            if remote.state is tls.State.CLIENT_EXPECT_SERVER_HELLO:
                remote.state = tls.State.CLIENT_EXPECT_ENCRYPTED_EXTENSIONS
        elif isinstance(message, CryptoData):
            if message.level is Level.INITIAL and self._is_client:
                remote.note_client_hello(message.data)
                remote.state = tls.State.CLIENT_EXPECT_SERVER_HELLO
            self._quic._crypto_streams[_EPOCHS[message.level]].sender.write(message.data)
        elif isinstance(message, PeerTransportParameters):
            self._agree(remote, message)
        elif isinstance(message, SessionTicket):
            self._quic._session_ticket_handler(_aioquic_ticket(remote, message))
        else:
            self._finish(remote, message)

    def _agree(self, remote: _RemoteTls, message: PeerTransportParameters) -> None:
        remote.received_extensions = [(_TRANSPORT_PARAMETERS, message.transport_parameters)]
        remote.alpn_negotiated = message.alpn.decode("utf-8", "backslashreplace")
        if remote.alpn_cb is not None:
            remote.alpn_cb(remote.alpn_negotiated)
        if not self._is_client and self._handshake is not None:
            self._handshake.proceed(remote.transport_parameters)

    def _finish(self, remote: _RemoteTls, done: Done) -> None:
        outcome = remote.outcome = done.outcome
        if outcome.status != 0 or not self._wants_tickets:
            self._handshake = None
        if outcome.status != 0:
            raise QuicConnectionError(_error_code(outcome), QuicFrameType.CRYPTO, outcome.reason)
        remote.session_resumed = outcome.resumed
        remote.early_data_accepted = outcome.early_data_accepted
        quic = self._quic
        quic._handshake_complete = True
        if self._is_client:
            remote.state = tls.State.CLIENT_POST_HANDSHAKE
        else:
            remote.state = tls.State.SERVER_POST_HANDSHAKE
            quic._confirm_handshake()
            quic._handshake_done_pending = True
        quic._replenish_connection_ids()
        quic._events.append(
            quic_events.HandshakeCompleted(
                alpn_protocol=remote.alpn_negotiated,
                early_data_accepted=outcome.early_data_accepted,
                session_resumed=outcome.resumed,
            )
        )
        quic._unblock_streams(is_unidirectional=False)
        quic._unblock_streams(is_unidirectional=True)

    def _plan_to_go_on(self) -> None:
        # In a turn of its own: what the application does with events must not come between the daemon's messages.
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Handle what was held back, then let aioquic send."""
        self._planned = False
        self._awaiting = False
        now = asyncio.get_running_loop().time()
        for _ in range(len(self._held)):
            if self._awaiting or not self._held:
                break
            self._receive_datagram(*self._held.popleft(), now)
        if self._protocol._transport is not None:
            self._protocol._process_events()
            self._protocol.transmit()


def _check(configuration: QuicConfiguration) -> None:
    if configuration.private_key is not None:
        raise ValueError("the configuration holds a private key: register it with the daemon instead")


def _error_code(outcome: Outcome) -> int:
    """What a connection whose handshake ended like this is closed with (RFC 9000 section 20.1)."""
    if outcome.alert is not None:
        return QuicErrorCode.CRYPTO_ERROR + outcome.alert
    return QuicErrorCode.APPLICATION_ERROR if outcome.status == Status.CANCELED else QuicErrorCode.INTERNAL_ERROR


def _error_text(error_code: int) -> str:
    """A QUIC error code for people: by its alert if it carries one we know."""
    alerts = {alert.quic_error: alert.label for alert in Alert}
    return alerts.get(error_code, f"error {error_code:#x}")


def _aioquic_ticket(remote: _RemoteTls, ticket: SessionTicket) -> tls.SessionTicket:
    """`ticket` in aioquic's clothes: what is inside is for the daemon only."""
    return tls.SessionTicket(
        age_add=0,
        cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256,  # says nothing: it is in the ticket
        not_valid_before=datetime.now(UTC),
        not_valid_after=datetime.fromtimestamp(ticket.expires, UTC),
        resumption_secret=b"",
        server_name=remote.server_name or "",
        ticket=ticket.state,
        max_early_data_size=_QUIC_EARLY_DATA if ticket.early_data else None,
        other_extensions=remote.received_extensions,
    )


def _trust_anchors(configuration: QuicConfiguration) -> tuple[bytes, ...]:
    bundles = [configuration.cadata] if configuration.cadata else []
    if configuration.cafile:
        bundles.append(Path(configuration.cafile).read_bytes())
    if configuration.capath:
        raise ValueError("capath is not supported with TLS in the daemon: use cafile, or the daemon's trust store")
    return tuple(
        certificate.public_bytes(Encoding.DER)
        for bundle in bundles
        for certificate in x509.load_pem_x509_certificates(bundle)
    )
