"""The words all parts share: who calls, what is asked, where in a handshake bytes belong, how it ended."""

import enum
from dataclasses import dataclass, field

from handshaked.errors import Alert, Status

MAX_HANDSHAKE_MESSAGE = 64 * 1024
"""Largest handshake message accepted, in bytes of body (RFC 8446 section 4 allows 2^24)."""

MAX_CLIENT_HELLO = MAX_HANDSHAKE_MESSAGE + 1024
"""Of a ClientHello, whose extensions are limited to 64 KiB by themselves: the fields before them come on top."""


class Role(enum.IntEnum):
    """Which side of the handshake the daemon plays; numbers of the kernel's ``msg-type``."""

    CLIENT = 1
    SERVER = 2


class Level(enum.IntEnum):
    """Encryption levels (RFC 9001 section 4.1.4); numbers of the kernel's QUIC sockets."""

    APPLICATION = 0
    INITIAL = 1
    HANDSHAKE = 2
    EARLY = 3


class Direction(enum.IntEnum):
    """Whether a traffic secret protects what this endpoint sends or what it receives."""

    RECEIVE = 0
    SEND = 1


class CipherSuite(enum.IntEnum):
    """TLS 1.3 cipher suites (RFC 8446 section B.4)."""

    AES_128_GCM_SHA256 = 0x1301
    AES_256_GCM_SHA384 = 0x1302
    CHACHA20_POLY1305_SHA256 = 0x1303
    AES_128_CCM_SHA256 = 0x1304


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
    """How the peer is authenticated; numbers of the kernel's ``auth``."""

    UNSPEC = 0
    UNAUTH = 1
    PSK = 2
    X509 = 3


class ClientAuth(enum.IntEnum):
    """Whether a server asks for a client certificate; numbers of the kernel's ``certificate_request``."""

    NONE = 0
    REQUEST = 1
    REQUIRE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the kernel attests it (SO_PEERCRED, SO_PEERGROUPS), or the kernel itself.

    ``authorized``: polkit has allowed the one thing asked for.
    """

    uid: int
    gids: frozenset[int] = frozenset()
    kernel: bool = False
    pid: int = 0
    authorized: bool = False

    def __str__(self) -> str:
        return "kernel" if self.kernel else f"uid {self.uid}"


KERNEL = Caller(uid=0, kernel=True)


@dataclass(frozen=True, slots=True)
class Request:
    """One handshake asked for, whichever door it came through.

    ``timeout`` is in seconds. ``alpns`` are what a client offers, or what a server limits itself to (empty: all
    that is registered). ``server_name`` is the name a client sends and verifies. ``cipher_suites`` are those allowed,
    in order of preference (empty: the daemon's). ``trust_anchors`` are DER certificates that replace the daemon's
    trust store. ``registration`` and ``credential`` (SHA-256 of the leaf, 32 bytes) narrow the choice on a server and
    name the client certificate on a client.

    ``session_ticket`` is what a client resumes with; it is sent new ones for ``ticket_seconds`` after the handshake.
    ``early_data`` consents to 0-RTT; on a server its bytes stand for what the early data relies on: a ticket brings
    early data only to an endpoint with the same.

    The kernel names keys by their serials: ``identity_keys`` are PSKs, ``certificate_keys`` pairs of certificate and
    private key, ``keyring`` is where to look for more.
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
    """How a request ended: the one report it gets. Fails closed: nothing but a full set makes success.

    ``peer_keys`` are the serials of keys that stand for the authenticated peer, ``tags`` what its certificate was
    found to be; ``psk_identity`` is that of the external PSK that authenticated both, if one did.
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


class KeyType(enum.Enum):
    """Kinds of private key a credential may have."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ECDSA_P521 = "ecdsa-p521"
    ED25519 = "ed25519"
    ED448 = "ed448"
    RSA = "rsa"
    RSA_PSS = "rsa-pss"
    MLDSA44 = "ml-dsa-44"
    MLDSA65 = "ml-dsa-65"
    MLDSA87 = "ml-dsa-87"

    @property
    def schemes(self) -> tuple[SignatureScheme, ...]:
        """The schemes a key of this type can sign with, best first (RFC 8446 section 4.4.3)."""
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
    KeyType.MLDSA44: (SignatureScheme.MLDSA44,),
    KeyType.MLDSA65: (SignatureScheme.MLDSA65,),
    KeyType.MLDSA87: (SignatureScheme.MLDSA87,),
}
