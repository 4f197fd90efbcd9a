"""The codec of handshake messages except ClientHello.

A ``pull_x`` parses and checks a message, or raises PeerError; a ``push_x`` returns a message with its header.
"""

from dataclasses import dataclass

from handshaked.errors import Alert, PeerError
from handshaked.tls import codepoints as cp
from handshaked.tls import extensions as ext
from handshaked.tls.codec import (
    decode_error,
    pull_extensions,
    pull_vector8,
    pull_vector16,
    pull_vector24,
    push_extension,
    push_message,
    push_vector8,
    push_vector16,
    push_vector24,
)
from handshaked.tls.codepoints import ExtensionType, HandshakeType
from handshaked.tls.x509.certificates import MAX_CERTIFICATES

_BODY = 4
_RANDOM = 6
_SESSION_ID = 38
_KNOWN = frozenset(ExtensionType)
_LEGACY_VERSION = cp.LEGACY_VERSION.to_bytes(2)
_VERSION_EXTENSION = push_extension(ExtensionType.SUPPORTED_VERSIONS, cp.TLS_1_3.to_bytes(2))
_MAX_LIFETIME = 7 * 24 * 3600


@dataclass(slots=True)
class ServerHelloMessage:
    """A ServerHello, or a HelloRetryRequest, whose key share is only a group."""

    random: bytes
    legacy_session_id: bytes
    cipher_suite: int
    extensions: dict[int, bytes]

    @property
    def is_retry(self) -> bool:
        """True for a HelloRetryRequest."""
        return self.random == cp.HELLO_RETRY_RANDOM


def pull_server_hello(message: bytes) -> ServerHelloMessage:
    """Parse a ServerHello or HelloRetryRequest (RFC 8446 sections 4.1.3 and 4.1.4)."""
    if len(message) <= _SESSION_ID:
        raise decode_error("ServerHello")
    session_id, at = pull_vector8(message, _SESSION_ID, "legacy_session_id_echo")
    if len(session_id) > 32 or len(message) < at + 3:
        raise decode_error("ServerHello")
    suite = message[at] << 8 | message[at + 1]
    random = message[_RANDOM:_SESSION_ID]
    retry = random == cp.HELLO_RETRY_RANDOM
    fields: dict[int, bytes] = {}
    if at + 3 < len(message):
        allowed = cp.HELLO_RETRY_EXTENSIONS if retry else cp.SERVER_HELLO_EXTENSIONS
        fields = pull_extensions(message, at + 3, allowed, _KNOWN, "HelloRetryRequest" if retry else "ServerHello")
    version = fields.get(ExtensionType.SUPPORTED_VERSIONS)
    if version is None:
        raise PeerError(Alert.PROTOCOL_VERSION, "the server does not support TLS 1.3")
    if message[_BODY:_RANDOM] <= cp.SSL_3_0:
        # Appendix D.5
        raise PeerError(Alert.PROTOCOL_VERSION, f"legacy_version {message[_BODY]}.{message[_BODY + 1]}")
    if ext.pull_u16(version, "supported_versions") != cp.TLS_1_3 or message[_BODY:_RANDOM] != _LEGACY_VERSION:
        # Section 4.2.1: illegal_parameter for a version that was not offered, or one before TLS 1.3.
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the server selected a version that was not offered")
    if message[at + 2] != 0:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the server selected a compression method")
    return ServerHelloMessage(random, session_id, suite, fields)


def push_server_hello(random: bytes, session_id: bytes, suite: int, extensions: bytes) -> bytes:
    """Return a ServerHello or HelloRetryRequest; supported_versions is added to `extensions`."""
    extensions = _VERSION_EXTENSION + extensions
    return push_message(
        HandshakeType.SERVER_HELLO,
        b"".join(
            (
                _LEGACY_VERSION,
                random,
                push_vector8(session_id),
                suite.to_bytes(2),
                b"\0",
                push_vector16(extensions),
            )
        ),
    )


def pull_encrypted_extensions(message: bytes) -> dict[int, bytes]:
    """Parse EncryptedExtensions (RFC 8446 section 4.3.1)."""
    return pull_extensions(message, _BODY, cp.ENCRYPTED_EXTENSIONS, _KNOWN, "EncryptedExtensions")


def push_encrypted_extensions(extensions: bytes) -> bytes:
    """Return EncryptedExtensions (RFC 8446 section 4.3.1)."""
    return push_message(HandshakeType.ENCRYPTED_EXTENSIONS, push_vector16(extensions))


@dataclass(slots=True)
class CertificateRequestMessage:
    """A CertificateRequest: the server's requirements on the client's certificate."""

    context: bytes
    signature_schemes: tuple[int, ...]
    compressions: tuple[int, ...]


def pull_certificate_request(message: bytes) -> CertificateRequestMessage:
    """Parse a CertificateRequest (RFC 8446 section 4.3.2)."""
    context, at = pull_vector8(message, _BODY, "CertificateRequest")
    fields = pull_extensions(message, at, cp.CERTIFICATE_REQUEST_EXTENSIONS, _KNOWN, "CertificateRequest")
    if context:
        # "This field SHALL be zero length unless used for the post-handshake authentication exchanges"
        raise PeerError(Alert.ILLEGAL_PARAMETER, "CertificateRequest with a context during the handshake")
    schemes = fields.get(ExtensionType.SIGNATURE_ALGORITHMS)
    if schemes is None:
        raise PeerError(Alert.MISSING_EXTENSION, "CertificateRequest without signature_algorithms")
    if (body := fields.get(ExtensionType.OID_FILTERS)) is not None:
        ext.pull_oid_filters(body)
    if (body := fields.get(ExtensionType.SIGNATURE_ALGORITHMS_CERT)) is not None:
        ext.pull_schemes(body)
    if (body := fields.get(ExtensionType.CERTIFICATE_AUTHORITIES)) is not None:
        ext.pull_authorities(body)
    compressions = fields.get(ExtensionType.COMPRESS_CERTIFICATE)
    return CertificateRequestMessage(
        context,
        ext.pull_schemes(schemes),
        () if compressions is None else ext.pull_compressions(compressions),
    )


def push_certificate_request(extensions: bytes) -> bytes:
    """Return a CertificateRequest, which has no context during the handshake."""
    return push_message(HandshakeType.CERTIFICATE_REQUEST, b"\0" + push_vector16(extensions))


@dataclass(slots=True)
class CertificateMessage:
    """A chain (DER, leaf first), and the types of all extensions in it."""

    context: bytes
    chain: tuple[bytes, ...]
    extension_types: frozenset[int] = frozenset()


def pull_certificate(body: bytes) -> CertificateMessage:
    """Parse the `body` of a Certificate, without the message header (RFC 8446 section 4.4.2)."""
    context, at = pull_vector8(body, 0, "Certificate")
    entries, end = pull_vector24(body, at, "Certificate")
    if end != len(body):
        raise decode_error("Certificate")
    chain: list[bytes] = []
    types: set[int] = set()
    at = 0
    while at < len(entries):
        der, at = pull_vector24(entries, at, "Certificate", 1)
        _, end = pull_vector16(entries, at, "Certificate")
        types.update(pull_extensions(entries[at:end], 0, cp.CERTIFICATE_EXTENSIONS, _KNOWN, "Certificate"))
        chain.append(der)
        at = end
        if len(chain) > MAX_CERTIFICATES:
            # A message may have 10,000 of them.
            raise PeerError(Alert.BAD_CERTIFICATE, f"the peer sent more than {MAX_CERTIFICATES} certificates")
    return CertificateMessage(context, tuple(chain), frozenset(types))


def push_certificate(chain: tuple[bytes, ...], leaf_extensions: bytes = b"") -> bytes:
    """Return a Certificate with an empty context, as during the handshake."""
    entries = b"".join(
        push_vector24(der) + push_vector16(b"" if index else leaf_extensions) for index, der in enumerate(chain)
    )
    return push_message(HandshakeType.CERTIFICATE, b"\0" + push_vector24(entries))


def pull_compressed_certificate(message: bytes) -> tuple[int, int, bytes]:
    """Return algorithm, uncompressed length and compressed bytes (RFC 8879 section 4)."""
    if len(message) < _BODY + 5:
        raise decode_error("CompressedCertificate")
    compressed, end = pull_vector24(message, _BODY + 5, "CompressedCertificate", 1)
    if end != len(message):
        raise decode_error("CompressedCertificate")
    return int.from_bytes(message[4:6]), int.from_bytes(message[6:9]), compressed


def push_compressed_certificate(algorithm: int, length: int, compressed: bytes) -> bytes:
    """Return a CompressedCertificate (RFC 8879 section 4)."""
    body = algorithm.to_bytes(2) + length.to_bytes(3) + push_vector24(compressed)
    return push_message(HandshakeType.COMPRESSED_CERTIFICATE, body)


def pull_certificate_verify(message: bytes) -> tuple[int, bytes]:
    """Return scheme and signature (RFC 8446 section 4.4.3)."""
    signature, end = pull_vector16(message, _BODY + 2, "CertificateVerify")
    if end != len(message):
        raise decode_error("CertificateVerify")
    return message[4] << 8 | message[5], signature


def push_certificate_verify(scheme: int, signature: bytes) -> bytes:
    """Return a CertificateVerify (RFC 8446 section 4.4.3)."""
    return push_message(HandshakeType.CERTIFICATE_VERIFY, scheme.to_bytes(2) + push_vector16(signature))


def pull_finished(message: bytes, size: int) -> bytes:
    """Return the verify_data of a Finished, of `size` bytes (RFC 8446 section 4.4.4)."""
    if len(message) != _BODY + size:
        raise decode_error("Finished")
    return message[_BODY:]


def push_finished(verify_data: bytes) -> bytes:
    """Return a Finished (RFC 8446 section 4.4.4)."""
    return push_message(HandshakeType.FINISHED, verify_data)


@dataclass(slots=True)
class NewSessionTicketMessage:
    """A NewSessionTicket (RFC 8446 section 4.6.1); `max_early_data` is None without the early_data extension."""

    lifetime: int
    age_add: int
    nonce: bytes
    ticket: bytes
    max_early_data: int | None = None


def pull_new_session_ticket(message: bytes) -> NewSessionTicketMessage:
    """Parse a NewSessionTicket (RFC 8446 section 4.6.1)."""
    if len(message) < _BODY + 8:
        raise decode_error("NewSessionTicket")
    lifetime = int.from_bytes(message[4:8])
    nonce, at = pull_vector8(message, 12, "NewSessionTicket")
    ticket, at = pull_vector16(message, at, "NewSessionTicket", 1)
    fields = pull_extensions(message, at, cp.NEW_SESSION_TICKET_EXTENSIONS, _KNOWN, "NewSessionTicket")
    if lifetime > _MAX_LIFETIME:
        # "Servers MUST NOT use any value greater than 604800 seconds"
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"session ticket with a lifetime of {lifetime} seconds")
    early = fields.get(ExtensionType.EARLY_DATA)
    if early is not None and len(early) != 4:
        raise decode_error("early_data")
    return NewSessionTicketMessage(
        lifetime, int.from_bytes(message[8:12]), nonce, ticket, None if early is None else int.from_bytes(early)
    )


def push_new_session_ticket(new: NewSessionTicketMessage) -> bytes:
    """Return a NewSessionTicket (RFC 8446 section 4.6.1)."""
    extensions = b""
    if new.max_early_data is not None:
        extensions = push_extension(ExtensionType.EARLY_DATA, new.max_early_data.to_bytes(4))
    body = b"".join(
        (
            new.lifetime.to_bytes(4),
            new.age_add.to_bytes(4),
            push_vector8(new.nonce),
            push_vector16(new.ticket),
            push_vector16(extensions),
        )
    )
    return push_message(HandshakeType.NEW_SESSION_TICKET, body)


def pull_end_of_early_data(message: bytes) -> None:
    """Check that EndOfEarlyData is empty (RFC 8446 section 4.5)."""
    if len(message) != _BODY:
        raise decode_error("EndOfEarlyData")


END_OF_EARLY_DATA = push_message(HandshakeType.END_OF_EARLY_DATA, b"")


def pull_key_update(message: bytes) -> bool:
    """Return whether the peer requests an update in return (RFC 8446 section 4.6.3)."""
    if len(message) != _BODY + 1:
        raise decode_error("KeyUpdate")
    if message[_BODY] > 1:
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"KeyUpdate with request_update {message[_BODY]}")
    return message[_BODY] == 1


def push_key_update(*, request: bool) -> bytes:
    """Return a KeyUpdate (RFC 8446 section 4.6.3)."""
    return push_message(HandshakeType.KEY_UPDATE, bytes([request]))
