"""Types that all rooms share: callers, requests and outcomes, and the numbers of TLS and of the kernel."""

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from handshaked.errors import Alert, Status

MAX_HANDSHAKE_MESSAGE = 64 * 1024
"""Largest accepted body of a handshake message, in bytes (RFC 8446 section 4 allows 2^24)."""

MAX_CLIENT_HELLO = MAX_HANDSHAKE_MESSAGE + 1024
"""The same for a ClientHello: its extensions alone may have 64 KiB, and other fields precede them."""


class Role(enum.IntEnum):
    """Side of the handshake that the daemon takes; numbers of the kernel's ``msg-type``."""

    CLIENT = 1
    SERVER = 2


class Level(enum.IntEnum):
    """Encryption levels (RFC 9001 section 4.1.4); numbers of the kernel's QUIC sockets."""

    APPLICATION = 0
    INITIAL = 1
    HANDSHAKE = 2
    EARLY = 3


class Direction(enum.IntEnum):
    """The direction of the records that a traffic secret protects, as seen from this endpoint."""

    RECEIVE = 0
    SEND = 1


class Aead(enum.Enum):
    """AEAD algorithms that protect records, all with a nonce of 12 bytes and a tag of 16 (RFC 5116, RFC 8439)."""

    AES_GCM = enum.auto()
    AES_CCM = enum.auto()
    CHACHA20_POLY1305 = enum.auto()


class CipherSuite(enum.IntEnum):
    """TLS 1.3 cipher suites (RFC 8446 section B.4): one row each, in the default order of preference.

    The value is the code point, ``name`` the IANA name without ``TLS_``. ``hash_name`` is as in hashlib,
    ``secret_length`` the length of a traffic secret. ``key_length`` is that of the AEAD key, and ``max_records`` the
    number of records that one key may protect (RFC 8446 section 5.5). ``linux_cipher`` is the TLS_CIPHER_* of
    include/uapi/linux/tls.h, used by kTLS and by QUIC sockets; there, ``salt_length`` bytes of the nonce are the salt.
    ``default`` is whether the suite is negotiated unless a policy or request selects it. All lengths are in bytes.
    """

    hash_name: str
    secret_length: int
    aead: Aead
    key_length: int
    max_records: int
    linux_cipher: int
    salt_length: int
    default: bool

    # GCM: 2^24.5 full-size records. ChaCha20-Poly1305: the sequence number (2^64 - 1) ends first. RFC 8446 names no
    # limit for CCM: 2^23 is that of RFC 9147 section 4.5.3.
    #
    # fmt: off
    #                           code    hash      AEAD                    key  records    Linux  salt  default
    AES_128_GCM_SHA256 =       (0x1301, "sha256", Aead.AES_GCM,           16,  2**24,     51,    4,    True)
    AES_256_GCM_SHA384 =       (0x1302, "sha384", Aead.AES_GCM,           32,  2**24,     52,    4,    True)
    CHACHA20_POLY1305_SHA256 = (0x1303, "sha256", Aead.CHACHA20_POLY1305, 32,  2**64 - 1, 54,    0,    True)
    AES_128_CCM_SHA256 =       (0x1304, "sha256", Aead.AES_CCM,           16,  2**23,     53,    4,    False)
    # fmt: on

    def __new__(cls, code_point: int, *columns: Any) -> Self:
        """Make the member of one row; also the type checker's signature of ``CipherSuite(code_point)``."""
        suite = int.__new__(cls, code_point)
        suite._value_ = code_point
        suite.hash_name, suite.aead, suite.key_length, *rest = columns
        suite.max_records, suite.linux_cipher, suite.salt_length, suite.default = rest
        suite.secret_length = hashlib.new(suite.hash_name).digest_size
        return suite


DEFAULT_CIPHER_SUITES = tuple(suite for suite in CipherSuite if suite.default)


class Group(enum.IntEnum):
    """Key exchange groups (RFC 8446 section 4.2.7; the hybrids: draft-ietf-tls-ecdhe-mlkem)."""

    SECP256R1 = 0x0017
    SECP384R1 = 0x0018
    SECP521R1 = 0x0019
    X25519 = 0x001D
    X448 = 0x001E
    SECP256R1MLKEM768 = 0x11EB
    X25519MLKEM768 = 0x11EC
    SECP384R1MLKEM1024 = 0x11ED


class AuthMode(enum.IntEnum):
    """Methods to authenticate the peer; numbers of the kernel's ``auth``."""

    UNSPEC = 0
    UNAUTH = 1
    PSK = 2
    X509 = 3


class ClientAuth(enum.IntEnum):
    """A server's requests for a client certificate; numbers of the kernel's ``certificate_request``."""

    NONE = 0
    REQUEST = 1
    REQUIRE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Identity of a caller as attested by the kernel (SO_PEERCRED, SO_PEERGROUPS), or the kernel itself.

    ``authorized``: polkit has authorized this one command. ``owner``: the user of whose subordinate uids (subuid(5))
    ``uid`` is one, if any.
    """

    uid: int
    gids: frozenset[int] = frozenset()
    kernel: bool = False
    pid: int = 0
    authorized: bool = False
    owner: int | None = None

    @property
    def account(self) -> int:
        """The uid that the use of resources counts for."""
        return self.uid if self.owner is None else self.owner

    def __str__(self) -> str:
        return "kernel" if self.kernel else f"uid {self.uid}"


KERNEL = Caller(uid=0, kernel=True)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one handshake, from either upcall source.

    ``timeout`` is in seconds. ``alpns`` are those a client offers, or the only ones a server accepts (empty: all
    registered ones). ``server_name`` is the name that a client sends and verifies. ``cipher_suites`` are the allowed
    ones in order of preference (empty: the daemon's). ``trust_anchors`` are DER certificates that replace the daemon's
    trust store. ``registration`` and ``credential`` (SHA-256 of the leaf, 32 bytes) restrict the selection on a server
    and name the client certificate on a client.

    ``session_ticket`` resumes a client's session; new tickets are delivered for ``ticket_seconds`` after the handshake.
    ``early_data`` accepts 0-RTT; on a server its bytes identify the context that early data relies on: early data is
    accepted only with a ticket that was issued with the same bytes.

    The kernel names keys by their serials: ``identity_keys`` are PSKs, ``certificate_keys`` pairs of certificate and
    private key; ``keyring`` is searched for more.
    """

    role: Role
    caller: Caller
    timeout: float
    auth_mode: AuthMode = AuthMode.X509
    alpns: tuple[bytes, ...] = ()
    server_name: str | None = None
    transport_parameters: bytes | None = None
    registration: str | None = None
    credential: bytes | None = None
    cipher_suites: tuple[CipherSuite, ...] = ()
    trust_anchors: tuple[bytes, ...] = ()
    session_ticket: bytes | None = field(default=None, repr=False)
    early_data: bytes | None = None
    ticket_seconds: float = 0.0
    peer_address: str | None = None
    identity_keys: tuple[int, ...] = ()
    certificate_keys: tuple[tuple[int, int], ...] = ()
    keyring: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a request, reported once. The default is a failure.

    ``quic_error`` is the QUIC error to close the connection with, None if that is for the endpoint to choose; ``alert``
    is its TLS alert, or the closest one.

    ``peer_keys`` are the serials of keys that represent the authenticated peer, ``tags`` the tags that its certificate
    matched; ``psk_identity`` is that of the external PSK that authenticated both sides, if any.
    """

    status: int = Status.FAILED
    alert: Alert | None = None
    reason: str = "no outcome was reported"
    alpn: bytes | None = None
    server_name: str | None = None
    registration: str | None = None
    cipher_suite: CipherSuite | None = None
    resumed: bool = False
    early_data_accepted: bool = False
    peer_certificates: tuple[bytes, ...] = ()
    peer_keys: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    psk_identity: bytes | None = None
    quic_error: int | None = None


class SignatureScheme(enum.IntEnum):
    """Signature schemes of CertificateVerify (RFC 8446 section 4.2.3, ML-DSA: draft-ietf-tls-mldsa)."""

    ECDSA_SECP256R1_SHA256 = 0x0403
    ECDSA_SECP384R1_SHA384 = 0x0503
    ECDSA_SECP521R1_SHA512 = 0x0603
    RSA_PSS_RSAE_SHA256 = 0x0804
    RSA_PSS_RSAE_SHA384 = 0x0805
    RSA_PSS_RSAE_SHA512 = 0x0806
    ED25519 = 0x0807
    ED448 = 0x0808
    RSA_PSS_PSS_SHA256 = 0x0809
    RSA_PSS_PSS_SHA384 = 0x080A
    RSA_PSS_PSS_SHA512 = 0x080B
    MLDSA44 = 0x0904
    MLDSA65 = 0x0905
    MLDSA87 = 0x0906


class Signer(Protocol):
    """Signs with the private key of one credential, which the engine never sees."""

    def sign(self, scheme: SignatureScheme, transcript_hash: bytes, *, by_server: bool) -> bytes:
        """Return the signature of a CertificateVerify (RFC 8446 section 4.4.3), made with `scheme`.

        It covers the messages up to the Certificate by their `transcript_hash`, and that the server has sent it, or
        the client. LocalError if the key cannot sign with that scheme.
        """
        ...


class KeyType(enum.Enum):
    """Types of private key that a credential may have; RSA-PSS keys may be restricted to one digest (RFC 4055)."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ECDSA_P521 = "ecdsa-p521"
    ED25519 = "ed25519"
    ED448 = "ed448"
    RSA = "rsa"
    RSA_PSS = "rsa-pss"
    RSA_PSS_SHA256 = "rsa-pss-sha256"
    RSA_PSS_SHA384 = "rsa-pss-sha384"
    RSA_PSS_SHA512 = "rsa-pss-sha512"
    MLDSA44 = "ml-dsa-44"
    MLDSA65 = "ml-dsa-65"
    MLDSA87 = "ml-dsa-87"

    @property
    def schemes(self) -> tuple[SignatureScheme, ...]:
        """The schemes that a key of this type can sign with, best first (RFC 8446 section 4.4.3)."""
        return _SCHEMES[self]


_SCHEMES = {
    KeyType.ECDSA_P256: (SignatureScheme.ECDSA_SECP256R1_SHA256,),
    KeyType.ECDSA_P384: (SignatureScheme.ECDSA_SECP384R1_SHA384,),
    KeyType.ECDSA_P521: (SignatureScheme.ECDSA_SECP521R1_SHA512,),
    KeyType.ED25519: (SignatureScheme.ED25519,),
    KeyType.ED448: (SignatureScheme.ED448,),
    KeyType.RSA: (
        SignatureScheme.RSA_PSS_RSAE_SHA256,
        SignatureScheme.RSA_PSS_RSAE_SHA384,
        SignatureScheme.RSA_PSS_RSAE_SHA512,
    ),
    KeyType.RSA_PSS: (
        SignatureScheme.RSA_PSS_PSS_SHA256,
        SignatureScheme.RSA_PSS_PSS_SHA384,
        SignatureScheme.RSA_PSS_PSS_SHA512,
    ),
    KeyType.RSA_PSS_SHA256: (SignatureScheme.RSA_PSS_PSS_SHA256,),
    KeyType.RSA_PSS_SHA384: (SignatureScheme.RSA_PSS_PSS_SHA384,),
    KeyType.RSA_PSS_SHA512: (SignatureScheme.RSA_PSS_PSS_SHA512,),
    KeyType.MLDSA44: (SignatureScheme.MLDSA44,),
    KeyType.MLDSA65: (SignatureScheme.MLDSA65,),
    KeyType.MLDSA87: (SignatureScheme.MLDSA87,),
}
