"""Messages that only a server sends: EncryptedExtensions, CertificateRequest and NewSessionTicket."""

import os

from handshaked.model import ClientAuth
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.client_hello import ClientHelloMessage
from handshaked.tls.codec import push_extension
from handshaked.tls.codepoints import QUIC_EARLY_DATA, ExtensionType, PskMode
from handshaked.tls.key_schedule import KeySchedule
from handshaked.tls.parameters import ServerParameters
from handshaked.tls.psk_selection import early_context, ticket_binding
from handshaked.tls.signatures import CERTIFICATE_SCHEMES, SUPPORTED_SCHEMES
from handshaked.tls.tickets import MAX_TICKET_CHAIN, MAX_TICKET_LIFETIME, TicketContent, push_ticket

_SCHEMES = ext.push_u16_list(ExtensionType.SIGNATURE_ALGORITHMS, SUPPORTED_SCHEMES) + ext.push_u16_list(
    ExtensionType.SIGNATURE_ALGORITHMS_CERT, CERTIFICATE_SCHEMES
)


def encrypted_extensions(
    hello: ClientHelloMessage, parameters: ServerParameters, *, resumed: bool, early_data: bool, quic: bool
) -> bytes:
    """Return EncryptedExtensions (RFC 8446 section 4.3.1)."""
    extensions = b""
    if hello.server_name is not None and not resumed:
        # RFC 6066 section 3: "SHALL include an extension of type "server_name" in the (extended) server hello", but
        # not when a session is resumed.
        extensions = push_extension(ExtensionType.SERVER_NAME, b"")
    if parameters.alpn is not None:
        extensions += ext.push_alpn((parameters.alpn,))
    if early_data:
        extensions += push_extension(ExtensionType.EARLY_DATA, b"")
    if quic:
        body = parameters.transport_parameters or b""
        extensions += push_extension(ExtensionType.QUIC_TRANSPORT_PARAMETERS, body)
    elif parameters.record_size_limit is not None and hello.record_size_limit is not None:
        limit = parameters.record_size_limit.to_bytes(2)
        extensions += push_extension(ExtensionType.RECORD_SIZE_LIMIT, limit)
    return messages.push_encrypted_extensions(extensions)


def certificate_request(parameters: ServerParameters) -> bytes:
    """Return CertificateRequest (RFC 8446 section 4.3.2), or nothing if client certificates are not requested."""
    if parameters.client_auth is ClientAuth.NONE:
        return b""
    extensions = _SCHEMES
    if parameters.client_authorities:
        extensions += ext.push_authorities(parameters.client_authorities)
    if parameters.compressions:
        extensions += ext.push_compressions(parameters.compressions)
    return messages.push_certificate_request(extensions)


def accepts_tickets(hello: ClientHelloMessage) -> bool:
    """Return whether tickets are compatible with the client's PSK modes, if it sent any (RFC 8446 section 4.2.9)."""
    return hello.psk_modes is None or PskMode.PSK_DHE_KE in hello.psk_modes


def new_session_tickets(
    schedule: KeySchedule,
    parameters: ServerParameters,
    server_name: str | None,
    chain: tuple[bytes, ...],
    now: float,
    *,
    quic: bool,
) -> bytes:
    """Return NewSessionTicket messages (RFC 8446 section 4.6.1), or nothing if none is to be issued.

    The transcript of `schedule` includes the client's Finished; `chain` is the client's. `now` is in Unix seconds.
    """
    tickets = parameters.tickets
    key = tickets.keys.sealing(now) if tickets is not None else None
    if tickets is None or key is None or sum(map(len, chain)) > MAX_TICKET_CHAIN:
        return b""
    if (lifetime := min(tickets.lifetime, MAX_TICKET_LIFETIME)) <= 0:
        return b""
    secret = schedule.derive(b"res master", schedule.transcript_hash())
    binding = ticket_binding(server_name, parameters, quic=quic)
    early = _max_early_data(parameters, quic=quic)
    flight = b""
    for number in range(tickets.count):
        nonce = number.to_bytes(2)
        content = TicketContent(
            schedule.suite,
            schedule.profile.resumption_psk(secret, nonce),
            int(now * 1000),
            lifetime,
            int.from_bytes(os.urandom(4)),
            early,
            early_context(parameters),
            chain,
        )
        ticket = push_ticket(content, key, binding)
        flight += messages.push_new_session_ticket(
            messages.NewSessionTicketMessage(lifetime, content.age_add, nonce, ticket, early or None)
        )
    return flight


def _max_early_data(parameters: ServerParameters, *, quic: bool) -> int:
    """Return max_early_data_size in bytes; 0 if early data is not accepted."""
    if parameters.early_data is None:
        return 0
    # RFC 9001 section 4.6.1: in QUIC the value is always 0xffffffff.
    return QUIC_EARLY_DATA if quic else parameters.early_data.max_size
