"""What both sides have in common, by the server's preference; and what a ClientHello must keep to."""

from handshaked.errors import Alert, PeerError
from handshaked.model import CipherSuite, Group
from handshaked.tls.client_hello import ClientHelloMessage, pull_hello_extensions
from handshaked.tls.codepoints import ExtensionType
from handshaked.tls.extensions import pull_key_shares
from handshaked.tls.parameters import ServerParameters

_MAY_CHANGE = frozenset(
    {
        ExtensionType.KEY_SHARE,
        ExtensionType.EARLY_DATA,
        ExtensionType.COOKIE,
        ExtensionType.PRE_SHARED_KEY,
    }
)


def choose_suite(preferred: tuple[CipherSuite, ...], offered: tuple[int, ...]) -> CipherSuite:
    """The first of `preferred` that is `offered` (RFC 8446 section 4.1.1)."""
    for suite in preferred:
        if suite in offered:
            return suite
    raise PeerError(Alert.HANDSHAKE_FAILURE, "no cipher suite in common")


def choose_group(preferred: tuple[Group, ...], hello: ClientHelloMessage) -> Group:
    """The first of `preferred` with a key share, else the first that the client supports (section 4.2.7)."""
    shares = hello.key_shares
    if shares is None:
        # Section 9.2: without it there is no key exchange, and psk_ke is not for us.
        raise PeerError(Alert.MISSING_EXTENSION, "no key_share")
    for group in preferred:
        if group in shares:
            return group
    for group in preferred:
        if group in hello.groups:
            return group
    raise PeerError(Alert.HANDSHAKE_FAILURE, "no key exchange group in common")


def require_credential(hello: ClientHelloMessage, parameters: ServerParameters) -> None:
    """A handshake without a PSK needs a credential, and a client that says which signatures it verifies."""
    if parameters.credential is None:
        if hello.psks is not None:
            # Section 6.2: "when PSK key establishment is desired but no acceptable PSK identity is provided"
            raise PeerError(Alert.UNKNOWN_PSK_IDENTITY, "no PSK identity of the client is known")
        raise PeerError(Alert.HANDSHAKE_FAILURE, "the client offers no PSK, and there is no certificate")
    if hello.signature_schemes is None:
        # Section 4.2.3
        raise PeerError(Alert.MISSING_EXTENSION, "no signature_algorithms")


def check_quic_hello(hello: ClientHelloMessage) -> None:
    """What RFC 9001 asks of a ClientHello beyond RFC 8446."""
    if hello.transport_parameters is None:
        # Section 8.2
        raise PeerError(Alert.MISSING_EXTENSION, "no quic_transport_parameters")
    if hello.legacy_session_id:
        # Section 8.4: compatibility mode is not used, and a server SHOULD treat it as PROTOCOL_VIOLATION
        raise PeerError(Alert.ILLEGAL_PARAMETER, "legacy_session_id is not empty")
    if hello.alpns is None:
        # Section 8.1
        raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the client offers no application protocol")


def check_second_hello(first: ClientHelloMessage, second: ClientHelloMessage, group: Group | None) -> None:
    """RFC 8446 section 4.1.2: the second ClientHello is the first but for what the HelloRetryRequest is about."""
    if second.early_data:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "early_data after HelloRetryRequest")
    if second.cookie is not None:
        raise PeerError(Alert.ILLEGAL_PARAMETER, "a cookie that was never given")
    extensions = pull_hello_extensions(second.raw, second.extensions_at)
    shares = extensions.get(ExtensionType.KEY_SHARE)
    if shares is None or tuple(pull_key_shares(shares)) != (group,):
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the second ClientHello has not the key share asked for")
    same = (
        second.random == first.random
        and second.raw[4:6] == first.raw[4:6]
        and second.legacy_session_id == first.legacy_session_id
        and second.cipher_suites == first.cipher_suites
    )
    if not same or _fixed(pull_hello_extensions(first.raw, first.extensions_at)) != _fixed(extensions):
        raise PeerError(Alert.ILLEGAL_PARAMETER, "the second ClientHello differs from the first")


def _fixed(extensions: dict[int, bytes]) -> list[tuple[int, bytes]]:
    # Padding (21) may change as well: "Optionally adding, removing, or changing the length of the "padding"".
    return [(kind, body) for kind, body in extensions.items() if kind not in _MAY_CHANGE and kind != 21]
