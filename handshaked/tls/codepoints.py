"""Code points of the TLS registries, and the messages in which each extension may appear."""

import enum

LEGACY_VERSION = 0x0303
TLS_1_3 = 0x0304
SSL_3_0 = b"\x03\x00"
"""As in legacy_version: no such hello is acceptable (RFC 8446 appendix D.5)."""

QUIC_EARLY_DATA = 0xFFFFFFFF
"""The only max_early_data_size of a session ticket over QUIC (RFC 9001 section 4.6.1)."""

HELLO_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3)."""


class HandshakeType(enum.IntEnum):
    """Handshake message types (RFC 8446 section 4, RFC 8879)."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    CERTIFICATE_VERIFY = 15
    FINISHED = 20
    KEY_UPDATE = 24
    COMPRESSED_CERTIFICATE = 25
    MESSAGE_HASH = 254


class ExtensionType(enum.IntEnum):
    """Supported extension types (RFC 8446 section 4.2)."""

    SERVER_NAME = 0
    STATUS_REQUEST = 5
    SUPPORTED_GROUPS = 10
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    COMPRESS_CERTIFICATE = 27
    RECORD_SIZE_LIMIT = 28
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    COOKIE = 44
    PSK_KEY_EXCHANGE_MODES = 45
    CERTIFICATE_AUTHORITIES = 47
    OID_FILTERS = 48
    POST_HANDSHAKE_AUTH = 49
    SIGNATURE_ALGORITHMS_CERT = 50
    KEY_SHARE = 51
    QUIC_TRANSPORT_PARAMETERS = 57


class PskMode(enum.IntEnum):
    """PSK key exchange modes (RFC 8446 section 4.2.9)."""

    PSK_KE = 0
    PSK_DHE_KE = 1


class CertificateCompression(enum.IntEnum):
    """Certificate compression algorithms (RFC 8879 section 7.3)."""

    ZLIB = 1
    BROTLI = 2


# The supported extensions that each message may have (the table of RFC 8446 section 4.2).
_E = ExtensionType
CLIENT_HELLO_EXTENSIONS = frozenset(_E) - {_E.OID_FILTERS}
SERVER_HELLO_EXTENSIONS = frozenset({_E.PRE_SHARED_KEY, _E.SUPPORTED_VERSIONS, _E.KEY_SHARE})
HELLO_RETRY_EXTENSIONS = frozenset({_E.SUPPORTED_VERSIONS, _E.COOKIE, _E.KEY_SHARE})
ENCRYPTED_EXTENSIONS = frozenset(
    {
        _E.SERVER_NAME,
        _E.SUPPORTED_GROUPS,
        _E.ALPN,
        _E.RECORD_SIZE_LIMIT,
        _E.EARLY_DATA,
        _E.QUIC_TRANSPORT_PARAMETERS,
    }
)
CERTIFICATE_EXTENSIONS = frozenset({_E.STATUS_REQUEST})
CERTIFICATE_REQUEST_EXTENSIONS = frozenset(
    {
        _E.STATUS_REQUEST,
        _E.SIGNATURE_ALGORITHMS,
        _E.COMPRESS_CERTIFICATE,
        _E.CERTIFICATE_AUTHORITIES,
        _E.OID_FILTERS,
        _E.SIGNATURE_ALGORITHMS_CERT,
    }
)
NEW_SESSION_TICKET_EXTENSIONS = frozenset({_E.EARLY_DATA})
