"""The object that replaces a connection's ``aioquic.tls.Context``."""

from collections.abc import Callable

from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from handshaked.model import Outcome

TRANSPORT_PARAMETERS = tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS

_EARLY_DATA = (None, 0xFFFFFFFF)  # RFC 9001 section 4.6.1
_MAX_TICKET = 65536
_RANDOM_AT = 6  # in a ClientHello message (RFC 8446 section 4.1.2)
_SESSION_ID_AT = 39
_LONGEST_PREFIX = _SESSION_ID_AT + 32


class RemoteTls:
    """Has the members of ``aioquic.tls.Context`` that aioquic uses; the adapter keeps them up to date.

    `ask` is called with the peer's handshake messages, `pass_ticket_on` with each NewSessionTicket message that follows
    the handshake.
    """

    def __init__(
        self,
        local: tls.Context,
        configuration: QuicConfiguration,
        ask: Callable[[bytes], None],
        pass_ticket_on: Callable[[bytes], None],
    ) -> None:
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
        self._ask = ask
        self._pass_ticket_on = pass_ticket_on
        self._client_hello_prefix = bytearray()
        self._late_messages = bytearray()

    @property
    def transport_parameters(self) -> bytes:
        """The local transport parameters as aioquic currently has them."""
        return next(body for kind, body in self.handshake_extensions if kind == TRANSPORT_PARAMETERS)

    def handle_message(self, data: bytes, _buffers: object) -> None:
        """Take `data` that the peer sent; called by aioquic."""
        if self.outcome is not None:
            self._receive_tickets(data)
            return
        if not self.is_client:
            self.note_client_hello(data)
        self._ask(data)

    def note_client_hello(self, data: bytes) -> None:
        """Keep what aioquic reads of the ClientHello: its random and its legacy session ID."""
        prefix = self._client_hello_prefix
        if len(prefix) < _LONGEST_PREFIX:
            prefix += data[: _LONGEST_PREFIX - len(prefix)]
            self.client_random = bytes(prefix[_RANDOM_AT : _RANDOM_AT + 32])
            length = prefix[_SESSION_ID_AT - 1] if len(prefix) >= _SESSION_ID_AT else 0
            self.legacy_session_id = bytes(prefix[_SESSION_ID_AT : _SESSION_ID_AT + length])

    def _receive_tickets(self, data: bytes) -> None:
        """Take messages after the handshake: only a server's session tickets are allowed (RFC 9001 section 6)."""
        self._late_messages += data
        while self._late_messages:
            if self.is_client and self._late_messages[0] == tls.HandshakeType.CERTIFICATE_REQUEST:
                raise _violation("CertificateRequest after the handshake")  # RFC 9001 section 4.4
            if not self.is_client or self._late_messages[0] != tls.HandshakeType.NEW_SESSION_TICKET:
                raise tls.AlertUnexpectedMessage
            end = 4 + int.from_bytes(self._late_messages[1:4])
            if end > _MAX_TICKET:
                raise tls.AlertDecodeError("session ticket too long")
            if len(self._late_messages) < max(end, 4):
                return
            message = bytes(self._late_messages[:end])
            del self._late_messages[:end]
            self._pass_ticket_on(message)


def check_ticket(message: bytes) -> None:
    """Check a NewSessionTicket that nobody takes: an invalid one closes the connection, too."""
    try:
        ticket = tls.pull_new_session_ticket(Buffer(data=message))
    except BufferReadError:
        raise tls.AlertDecodeError("malformed session ticket") from None
    if ticket.max_early_data_size not in _EARLY_DATA:
        raise _violation("session ticket with a max_early_data_size that QUIC forbids")


def _violation(reason: str) -> QuicConnectionError:
    return QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.CRYPTO, reason)
