"""What a handshake is given: the credential and settings of each side, and what a server is shown to choose by."""

from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from handshaked.model import CipherSuite, Group, KeyType

DEFAULT_CIPHER_SUITES = (
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
)
DEFAULT_GROUPS = (
    Group.X25519MLKEM768,
    Group.X25519,
    Group.SECP256R1,
    Group.SECP256R1MLKEM768,
    Group.SECP384R1,
    Group.SECP521R1,
)


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (DER, leaf first) and its private key, which shows in no repr.

    ``ocsp_response`` (DER) is stapled for peers that ask for it. Make a new Credential for a new response: encoded
    messages are kept with it.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    private_key: PrivateKeyTypes = field(repr=False)
    key_type: KeyType
    ocsp_response: bytes | None = field(default=None, repr=False)
    messages: dict[tuple[bool, int], bytes] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a server chooses by.

    ``server_name`` is the SNI host name as sent, ``alpns`` the protocols in the client's order (empty without the
    extension), ``signature_schemes`` code points, ``transport_parameters`` the body of extension 0x39 or None.
    ``signature_schemes_cert`` are those for the chain's own signatures (the same ones, unless the client says
    otherwise).
    """

    server_name: str | None
    alpns: tuple[bytes, ...]
    signature_schemes: tuple[int, ...]
    transport_parameters: bytes | None
    signature_schemes_cert: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """The answer to a ClientHello: with what, and as what, this server goes on.

    ``cipher_suites`` and ``groups`` are in the order of preference; a group that the client sent a key share for
    goes before one that would take a HelloRetryRequest.
    """

    credential: Credential | None
    alpn: bytes | None
    transport_parameters: bytes | None
    cipher_suites: tuple[CipherSuite, ...] = DEFAULT_CIPHER_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS


class PeerVerifier(Protocol):
    """Decides whether a peer's certificate chain is good for a name at a time."""

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """Accept `chain` (DER, leaf first) for `server_name` (host name or IP address) at `now` (Unix seconds).

        Raises PeerError with the alert that fits: unknown_ca, certificate_expired, bad_certificate.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClientParameters:
    """How a client goes into a handshake. ``verifier`` None accepts any server certificate.

    ``groups`` are in the order of preference; a key share is sent for each of ``key_shares``, or for the first group
    if that is empty.
    """

    alpns: tuple[bytes, ...]
    server_name: str | None
    transport_parameters: bytes | None
    verifier: PeerVerifier | None
    credential: Credential | None = None
    cipher_suites: tuple[CipherSuite, ...] = DEFAULT_CIPHER_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    key_shares: tuple[Group, ...] = (Group.X25519,)


class ClientCertificateVerifier(Protocol):
    """Decides whether a client's certificate chain is good at a time; whose it is says its subject."""

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """Accept `chain` (DER, leaf first) at `now` (Unix seconds); raises PeerError with the alert that fits."""
        ...
