"""Parse a ClientHello, and check what does not depend on the server's parameters."""

from dataclasses import dataclass

from handshaked.errors import Alert, PeerError
from handshaked.model import CipherSuite, Group
from handshaked.tls import extensions as ext
from handshaked.tls.codec import decode_error, known_among, pull_extensions, pull_vector8, pull_vector16, unpack_u16s
from handshaked.tls.codepoints import CLIENT_HELLO_EXTENSIONS, SSL_3_0, TLS_1_3, ExtensionType

_RANDOM = 6
_SESSION_ID = 38
_KNOWN = frozenset(ExtensionType)
_GROUPS = frozenset(Group)
_SUITES = frozenset(CipherSuite)


@dataclass(slots=True)
class ClientHelloMessage:
    """A valid ClientHello for TLS 1.3. None: the extension was not sent.

    The server keeps it while it waits for a credential, or a second ClientHello: all fields but `raw` are bounded.
    """

    raw: bytes
    extensions_at: int
    random: bytes
    legacy_session_id: bytes
    cipher_suites: tuple[int, ...]
    server_name: str | None = None
    alpns: tuple[bytes, ...] | None = None
    groups: tuple[int, ...] = ()
    key_shares: dict[int, bytes] | None = None
    signature_schemes: tuple[int, ...] | None = None
    signature_schemes_cert: tuple[int, ...] | None = None
    psk_modes: bytes | None = None
    psks: ext.OfferedPsks | None = None
    early_data: bool = False
    cookie: bytes | None = None
    status_request: bool = False
    compressions: tuple[int, ...] = ()
    record_size_limit: int | None = None
    transport_parameters: bytes | None = None


def pull_client_hello(message: bytes) -> ClientHelloMessage:
    """Parse `message` with its header (RFC 8446 section 4.1.2). PeerError if it is invalid."""
    if len(message) <= _SESSION_ID:
        raise decode_error("ClientHello")
    session_id, at = pull_vector8(message, _SESSION_ID, "legacy_session_id")
    suites, at = pull_vector16(message, at, "cipher_suites", 2)
    compression, at = pull_vector8(message, at, "legacy_compression_methods", 1)
    if len(session_id) > 32:
        raise decode_error("legacy_session_id")
    fields = pull_hello_extensions(message, at)
    _check_version(message, fields)
    if compression != b"\0":
        # "For every TLS 1.3 ClientHello, this vector MUST contain exactly one byte, set to zero"
        raise PeerError(Alert.ILLEGAL_PARAMETER, "legacy_compression_methods must be the null method only")
    hello = ClientHelloMessage(
        message,
        at,
        message[_RANDOM:_SESSION_ID],
        session_id,
        known_among(unpack_u16s(suites, "cipher_suites"), _SUITES),
    )
    _pull_fields(hello, fields)
    _check_fields(hello, fields)
    hello.groups = known_among(hello.groups, _GROUPS)
    if hello.key_shares:
        hello.key_shares = {group: share for group, share in hello.key_shares.items() if group in _GROUPS}
    return hello


def pull_hello_extensions(message: bytes, at: int) -> dict[int, bytes]:
    """Return the extensions of a ClientHello from `at` on by type, in order; a ClientHello may have none."""
    if at == len(message):
        return {}
    return pull_extensions(message, at, CLIENT_HELLO_EXTENSIONS, _KNOWN, "ClientHello")


def _check_version(message: bytes, fields: dict[int, bytes]) -> None:
    body = fields.get(ExtensionType.SUPPORTED_VERSIONS)
    # Section 4.2.1: a client without the extension supports TLS 1.2 at most, whatever its legacy_version.
    if body is None or TLS_1_3 not in ext.pull_supported_versions(body):
        raise PeerError(Alert.PROTOCOL_VERSION, "the client does not offer TLS 1.3")
    if message[4:6] <= SSL_3_0:
        # Appendix D.5: such a hello "MUST abort the handshake". Section 4.2.1: any other version is ignored.
        raise PeerError(Alert.PROTOCOL_VERSION, f"legacy_version {message[4]}.{message[5]}")


def _pull_fields(hello: ClientHelloMessage, fields: dict[int, bytes]) -> None:
    """Parse the extensions that are present."""
    kinds = ExtensionType
    find = fields.get
    if (body := find(kinds.SERVER_NAME)) is not None:
        hello.server_name = ext.pull_server_name(body)
    if (body := find(kinds.ALPN)) is not None:
        hello.alpns = ext.pull_alpn(body)
    if (body := find(kinds.SUPPORTED_GROUPS)) is not None:
        hello.groups = ext.pull_groups(body)
    if (body := find(kinds.KEY_SHARE)) is not None:
        hello.key_shares = ext.pull_key_shares(body)
    if (body := find(kinds.SIGNATURE_ALGORITHMS)) is not None:
        hello.signature_schemes = ext.pull_schemes(body)
    if (body := find(kinds.SIGNATURE_ALGORITHMS_CERT)) is not None:
        hello.signature_schemes_cert = ext.pull_schemes(body)
    if (body := find(kinds.PSK_KEY_EXCHANGE_MODES)) is not None:
        hello.psk_modes = ext.pull_psk_modes(body)
    if (body := find(kinds.PRE_SHARED_KEY)) is not None:
        hello.psks = ext.pull_offered_psks(body)
    if (body := find(kinds.EARLY_DATA)) is not None:
        hello.early_data = ext.pull_empty(body, "early_data")
    if (body := find(kinds.COOKIE)) is not None:
        hello.cookie = ext.pull_cookie(body)
    if (body := find(kinds.STATUS_REQUEST)) is not None:
        hello.status_request = ext.pull_status_request(body)
    if (body := find(kinds.COMPRESS_CERTIFICATE)) is not None:
        hello.compressions = ext.pull_compressions(body)
    if (body := find(kinds.RECORD_SIZE_LIMIT)) is not None:
        hello.record_size_limit = ext.pull_record_size_limit(body)
    if (body := find(kinds.CERTIFICATE_AUTHORITIES)) is not None:
        ext.pull_authorities(body)
    if (body := find(kinds.POST_HANDSHAKE_AUTH)) is not None:
        ext.pull_empty(body, "post_handshake_auth")
    hello.transport_parameters = find(kinds.QUIC_TRANSPORT_PARAMETERS)


def _check_fields(hello: ClientHelloMessage, fields: dict[int, bytes]) -> None:
    """Check the extensions that require each other (RFC 8446 sections 4.2.8 to 4.2.11 and 9.2)."""
    if (hello.key_shares is None) != (ExtensionType.SUPPORTED_GROUPS not in fields):
        raise PeerError(Alert.MISSING_EXTENSION, "supported_groups and key_share require each other")
    if hello.psks is None:
        if hello.key_shares is None or hello.signature_schemes is None:
            raise PeerError(
                Alert.MISSING_EXTENSION, "a ClientHello without PSK requires supported_groups and signature_algorithms"
            )
        if hello.early_data:
            # Section 4.2.10: "When a PSK is used and early data is allowed for that PSK"
            raise PeerError(Alert.ILLEGAL_PARAMETER, "early_data without pre_shared_key")
    else:
        if next(reversed(fields)) != ExtensionType.PRE_SHARED_KEY:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "pre_shared_key is not the last extension")
        if hello.psk_modes is None:
            raise PeerError(Alert.MISSING_EXTENSION, "pre_shared_key without psk_key_exchange_modes")
    if hello.key_shares and not hello.groups:
        raise PeerError(Alert.MISSING_EXTENSION, "key_share without supported_groups")
    if unlisted := set(hello.key_shares or ()).difference(hello.groups):
        # Section 4.2.8: no key share for a group that is not in supported_groups.
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"group {min(unlisted):#06x} is not in supported_groups")
