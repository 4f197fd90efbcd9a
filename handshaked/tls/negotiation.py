"""Negotiation by the server's preference, and the checks of a ClientHello that depend on it."""

from handshaked.errors import Alert, PeerError, QuicViolationError
from handshaked.model import CipherSuite, Group
from handshaked.tls.client_hello import ClientHelloMessage, pull_hello_extensions
from handshaked.tls.codepoints import ExtensionType
from handshaked.tls.extensions import pull_key_shares
from handshaked.tls.parameters import ServerParameters

_PADDING = 21  # RFC 7685
_MAY_CHANGE = frozenset(
    {
        ExtensionType.KEY_SHARE,
        ExtensionType.EARLY_DATA,
        ExtensionType.COOKIE,
        ExtensionType.PRE_SHARED_KEY,
        _PADDING,  # "Optionally adding, removing, or changing the length of the "padding""
    }
)


def choose_suite(preferred: tuple[CipherSuite, ...], offered: tuple[int, ...]) -> CipherSuite:
    """Return the first of `preferred` that is `offered` (RFC 8446 section 4.1.1). PeerError if there is none."""
    for suite in preferred:
        if suite in offered:
            return suite
    raise PeerError(Alert.HANDSHAKE_FAILURE, "no cipher suite in common")


def choose_group(preferred: tuple[Group, ...], hello: ClientHelloMessage) -> Group:
    """Return the first of `preferred` with a key share, else the first that the client supports (section 4.2.7).

    PeerError if there is none.
    """
    shares = hello.key_shares
    if shares is None:
        # Section 9.2: a PSK alone (psk_ke) is not supported.
        raise PeerError(Alert.MISSING_EXTENSION, "ClientHello without key_share")
    for group in preferred:
        if group in shares:
            return group
    for group in preferred:
        if group in hello.groups:
            return group
    raise PeerError(Alert.HANDSHAKE_FAILURE, "no key exchange group in common")


def require_credential(hello: ClientHelloMessage, parameters: ServerParameters) -> None:
    """Check that a handshake without PSK has a credential, and the client's signature schemes."""
    if parameters.credential is None:
        if hello.psks is not None:
            # Section 6.2: "when PSK key establishment is desired but no acceptable PSK identity is provided"
            raise PeerError(Alert.UNKNOWN_PSK_IDENTITY, "no PSK identity of the client is known")
        raise PeerError(Alert.HANDSHAKE_FAILURE, "the client offers no PSK, and the server has no certificate")
    if hello.signature_schemes is None:
        # Section 4.2.3
        raise PeerError(Alert.MISSING_EXTENSION, "ClientHello without signature_algorithms")


def check_quic_hello(hello: ClientHelloMessage) -> None:
    """Check what RFC 9001 requires of a ClientHello beyond RFC 8446."""
    if hello.transport_parameters is None:
        # Section 8.2
        raise PeerError(Alert.MISSING_EXTENSION, "ClientHello without quic_transport_parameters")
    if hello.legacy_session_id:
        # Section 8.4: no compatibility mode; a server SHOULD treat it as PROTOCOL_VIOLATION
        raise QuicViolationError(Alert.ILLEGAL_PARAMETER, "legacy_session_id is not empty")
    if hello.alpns is None:
        # Section 8.1
        raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the client offers no application protocol")


def check_second_hello(first: ClientHelloMessage, second: ClientHelloMessage, group: Group | None) -> None:
    """Check that the second ClientHello equals the first but for what RFC 8446 section 4.1.2 allows to change."""
    if second.early_data:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "early_data after HelloRetryRequest")
    if second.cookie is not None:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "cookie without one in the HelloRetryRequest")
    extensions = pull_hello_extensions(second.raw, second.extensions_at)
    shares = extensions.get(ExtensionType.KEY_SHARE)
    if shares is None or tuple(pull_key_shares(shares)) != (group,):
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the second ClientHello does not have the requested key share")
    same = (
        second.random == first.random
        and second.raw[4:6] == first.raw[4:6]
        and second.legacy_session_id == first.legacy_session_id
        and second.cipher_suites == first.cipher_suites
    )
    if not same or _fixed(pull_hello_extensions(first.raw, first.extensions_at)) != _fixed(extensions):
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the second ClientHello differs from the first")


def _fixed(extensions: dict[int, bytes]) -> list[tuple[int, bytes]]:
    return [(kind, body) for kind, body in extensions.items() if kind not in _MAY_CHANGE]
