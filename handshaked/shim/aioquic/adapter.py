"""The adapter that makes an aioquic connection ask the daemon instead of its own TLS.

aioquic is sans-IO and calls TLS from inside ``receive_datagram``. Here that call sends the data to the daemon, and
until the daemon answers, the connection is on hold: it neither sends nor processes datagrams, so that none is dropped
for lack of keys. Afterwards the interrupted datagram is processed again; aioquic skips the packets of it that it has
already handled, by their packet numbers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import aioquic
from aioquic import tls
from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Level, Role
from handshaked.shim.aioquic.remote_tls import TRANSPORT_PARAMETERS, RemoteTls, check_ticket
from handshaked.shim.aioquic.translation import DIRECTIONS, EPOCHS, LEVELS, aioquic_ticket, error_code, error_text
from handshaked.shim.client import HandshakeClient, PendingHandshake
from handshaked.shim.exchange import Message
from handshaked.wire.messages import Close, Done, Start

_TESTED = ((1, 6), (1, 7))
_VERSION = tuple(int(part) for part in aioquic.__version__.split(".")[:2])
if not _TESTED[0] <= _VERSION <= _TESTED[1]:
    raise ImportError(
        f"aioquic {aioquic.__version__} is not supported: this adapter uses its private members and was tested with "
        "1.6 and 1.7 only"
    )

_MAX_HELD = 64
_TICKET_SECONDS = 10


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """Fields of a Start that aioquic's configuration does not have."""

    registration: str | None = None
    trust_anchors: tuple[bytes, ...] = ()
    early_data: bytes | None = None


def create_adapted(
    create_protocol: Callable[..., QuicConnectionProtocol],
    client: HandshakeClient,
    options: AdapterOptions,
    connection: QuicConnection,
    stream_handler: QuicStreamHandler | None = None,
) -> QuicConnectionProtocol:
    """Create a protocol for `connection` and move its TLS into the daemon."""
    protocol = create_protocol(connection, stream_handler=stream_handler)
    _Adapter(connection, protocol, client, options)
    return protocol


class _Adapter:
    """Replaces methods of a connection so that its TLS runs in the daemon."""

    def __init__(
        self,
        connection: QuicConnection,
        protocol: QuicConnectionProtocol,
        client: HandshakeClient,
        options: AdapterOptions,
    ) -> None:
        self._quic = cast("Any", connection)  # the members used are private to aioquic and untyped
        self._protocol = cast("Any", protocol)
        self._client = client
        self._options = options
        self._is_client = connection.configuration.is_client
        self._handshake: PendingHandshake | None = None
        self._tls: RemoteTls | None = None
        self._epoch = tls.Epoch.INITIAL
        self._awaiting = False
        self._resume_scheduled = False
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

    # Called by aioquic.

    def _initialize(self, peer_cid: bytes) -> None:
        if self._handshake is not None:
            self._handshake.cancel("connection restarted after Retry or Version Negotiation")
            self._handshake = None
        self._original["_initialize"](peer_cid)
        self._tls = RemoteTls(self._quic.tls, self._quic.configuration, self._ask, self._pass_ticket_on)
        self._quic.tls = self._tls

    def _handle_crypto_frame(self, handle: Callable[..., None], context: Any, frame_type: int, buf: Any) -> None:
        self._epoch = context.epoch
        handle(context, frame_type, buf)

    def _receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        if self._on_hold:
            if len(self._held) < _MAX_HELD:
                self._held.append((data, addr))
            return
        self._original["receive_datagram"](data, addr, now)
        if self._awaiting:
            self._held.appendleft((data, addr))

    def _datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        return [] if self._on_hold else self._original["datagrams_to_send"](now)

    def _get_timer(self) -> float | None:
        timer: float | None = None if self._on_hold else self._original["get_timer"]()
        return timer

    @property
    def _on_hold(self) -> bool:
        closed = self._quic._close_event
        if closed is not None and self._handshake is not None:
            self._handshake.cancel(f"connection closed with {error_text(closed.error_code)} {closed.reason_phrase!r}")
            self._handshake = None
            self._awaiting = False
        return self._awaiting

    # To the daemon.

    def _ask(self, data: bytes) -> None:
        """Send `data` to the daemon and hold the connection until it answers; the first call starts the handshake."""
        if self._handshake is None:
            try:
                self._handshake = self._client.start(self._start(), self._on_message, self._schedule_resume)
            except OSError as error:
                self._fail(
                    QuicConnectionError(
                        error_code=QuicErrorCode.INTERNAL_ERROR,
                        frame_type=QuicFrameType.CRYPTO,
                        reason_phrase=f"cannot start the handshake in the daemon: {error.strerror}",
                    )
                )
                return
        if data:
            self._handshake.receive(LEVELS[self._epoch], data)
        self._awaiting = True

    def _pass_ticket_on(self, message: bytes) -> None:
        """Send a NewSessionTicket `message` to the daemon, which makes a ticket of it. Does not hold the connection.

        If the daemon takes none, the message is only checked.
        """
        if self._handshake is not None and not self._handshake.over:
            self._handshake.receive(Level.APPLICATION, message)
        else:
            check_ticket(message)

    def _start(self) -> Start:
        assert self._tls is not None  # noqa: S101 - for the type checker: _initialize comes first
        configuration: QuicConfiguration = self._quic.configuration
        ticket = self._tls.session_ticket
        return Start(
            role=Role.CLIENT if self._is_client else Role.SERVER,
            auth_mode=AuthMode.UNAUTH if configuration.verify_mode == 0 else AuthMode.X509,
            server_name=configuration.server_name if self._is_client else None,
            alpns=tuple(alpn.encode() for alpn in configuration.alpn_protocols or ()),
            # A server's parameters depend on the QUIC version, which depends on the client's parameters.
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
            self._schedule_resume()

    def _fail(self, error: QuicConnectionError) -> None:
        # While aioquic handles a packet it would close the connection itself, but a client also gets here otherwise.
        self._quic.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)

    def _apply(self, message: Message) -> None:
        remote = self._tls
        assert remote is not None  # noqa: S101 - for the type checker: a handshake was started
        if isinstance(message, TrafficSecret):
            remote.update_traffic_key_cb(
                DIRECTIONS[message.direction],
                EPOCHS[message.level],
                tls.CipherSuite(message.cipher_suite),
                message.secret,
            )
            if remote.state is tls.State.CLIENT_EXPECT_SERVER_HELLO:
                remote.state = tls.State.CLIENT_EXPECT_ENCRYPTED_EXTENSIONS
        elif isinstance(message, CryptoData):
            if message.level is Level.INITIAL and self._is_client:
                remote.note_client_hello(message.data)
                remote.state = tls.State.CLIENT_EXPECT_SERVER_HELLO
            self._quic._crypto_streams[EPOCHS[message.level]].sender.write(message.data)
        elif isinstance(message, PeerTransportParameters):
            self._agree(remote, message)
        elif isinstance(message, SessionTicket):
            self._quic._session_ticket_handler(aioquic_ticket(remote, message))
        elif isinstance(message, Close):
            self._handshake = None
            raise QuicConnectionError(message.quic_error, QuicFrameType.CRYPTO, message.reason)
        else:
            self._finish(remote, message)

    def _agree(self, remote: RemoteTls, message: PeerTransportParameters) -> None:
        remote.received_extensions = [(TRANSPORT_PARAMETERS, message.transport_parameters)]
        remote.alpn_negotiated = message.alpn.decode("utf-8", "backslashreplace")
        if remote.alpn_cb is not None:
            remote.alpn_cb(remote.alpn_negotiated)
        if not self._is_client and self._handshake is not None:
            self._handshake.proceed(remote.transport_parameters)

    def _finish(self, remote: RemoteTls, done: Done) -> None:
        outcome = remote.outcome = done.outcome
        if outcome.status != 0 or not self._wants_tickets:
            self._handshake = None
        if outcome.status != 0:
            raise QuicConnectionError(error_code(outcome), QuicFrameType.CRYPTO, outcome.reason)
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

    def _schedule_resume(self) -> None:
        # In a later loop iteration: what the application does on events must not interleave with daemon messages.
        if not self._resume_scheduled:
            self._resume_scheduled = True
            asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        """Process the held datagrams, then let aioquic send."""
        self._resume_scheduled = False
        self._awaiting = False
        now = asyncio.get_running_loop().time()
        for _ in range(len(self._held)):
            if self._awaiting or not self._held:
                break
            self._receive_datagram(*self._held.popleft(), now)
        if self._protocol._transport is not None:
            self._protocol._process_events()
            self._protocol.transmit()
