"""What a handshake is given: the credential and settings of each side, and what a server is shown to choose by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from handshaked.model import DEFAULT_CIPHER_SUITES, CipherSuite, ClientAuth, Group, KeyType, SignatureScheme
from handshaked.tls.codepoints import CertificateCompression
from handshaked.tls.compression import AVAILABLE
from handshaked.tls.psk import ExternalPsk, PskSource
from handshaked.tls.tickets import TicketKeys

DEFAULT_GROUPS = (
    Group.X25519MLKEM768,
    Group.X25519,
    Group.SECP256R1,
    Group.SECP256R1MLKEM768,
    Group.SECP384R1,
    Group.SECP521R1,
)


class Signer(Protocol):
    """Signs with the private key of one credential, which the engine never sees."""

    def sign(self, scheme: SignatureScheme, content: bytes) -> bytes:
        """Return the signature of `content` under `scheme`. LocalError if the key cannot sign with that scheme."""
        ...


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (DER, leaf first) and what signs for it.

    ``ocsp_response`` (DER) is stapled for peers that ask for it. Make a new Credential for a new response: encoded
    messages are kept with it.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    signer: Signer = field(repr=False)
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


class PeerVerifier(Protocol):
    """Decides whether a server's certificate chain is good for a name at a time."""

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """Accept `chain` (DER, leaf first) for `server_name` (host name or IP address) at `now` (Unix seconds).

        Raises PeerError with the alert that fits: unknown_ca, certificate_expired, bad_certificate.
        """
        ...


class ClientCertificateVerifier(Protocol):
    """Decides whether a client's certificate chain is good at a time; whose it is says its subject."""

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """Accept `chain` (DER, leaf first) at `now` (Unix seconds); raises PeerError with the alert that fits."""
        ...


class ReplayGuard(Protocol):
    """Remembers which tickets have brought early data, for all workers together (RFC 8446 section 8.1)."""

    def first_use(self, ticket: bytes, expires: float, now: float) -> bool:
        """Whether `ticket` (a digest, 16 bytes) is seen for the first time; from then on it is known until `expires`.

        One atomic step, whichever worker asks. False if in doubt: early data is then refused, no more than that.
        """
        ...


@dataclass(frozen=True, slots=True)
class EarlyData:
    """A server's consent to early data, which a replay guard must keep from being taken twice.

    ``context`` stands for all that early data relies on besides ALPN and server name, such as the transport
    parameters that a client remembers: tickets of another context resume without early data. ``max_size`` is of TCP
    alone, QUIC has limits of its own. ``window`` is how far a ticket's age may be off, in seconds.
    """

    guard: ReplayGuard
    context: bytes = b""
    max_size: int = 16384
    window: float = 10.0


@dataclass(frozen=True, slots=True)
class Tickets:
    """How a server issues session tickets and takes them back. ``lifetime`` (seconds) counts for 7 days at most."""

    keys: TicketKeys
    count: int = 1
    lifetime: int = 24 * 3600


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """The answer to a ClientHello: with what, and as what, this server goes on.

    ``cipher_suites`` and ``groups`` are in the order of preference; a group that the client sent a key share for
    goes before one that would take a HelloRetryRequest. Without a ``credential``, only a PSK will do.

    A session ticket is good for the same server name, ``alpn``, ``registration`` and ``owner`` of it (a uid),
    ``client_auth`` and ``client_policy``: the last stands for whatever decides which client certificates are accepted
    (say, a digest of the trust anchors). ``client_authorities`` are DER names for the client to choose its certificate
    by.

    ``record_size_limit`` and the size of early data are for TCP. ``keylog`` is given lines in the format of
    SSLKEYLOGFILE, secrets included.
    """

    credential: Credential | None
    alpn: bytes | None
    transport_parameters: bytes | None
    cipher_suites: tuple[CipherSuite, ...] = DEFAULT_CIPHER_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    registration: str | None = None
    owner: int = 0
    client_auth: ClientAuth = ClientAuth.NONE
    client_verifier: ClientCertificateVerifier | None = None
    client_authorities: tuple[bytes, ...] = ()
    client_policy: bytes = b""
    tickets: Tickets | None = None
    early_data: EarlyData | None = None
    psks: PskSource | None = None
    compressions: tuple[CertificateCompression, ...] = AVAILABLE
    record_size_limit: int | None = None
    keylog: Callable[[str], None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClientParameters:
    """How a client goes into a handshake.

    ``verifier`` None accepts any server certificate, unless there is a ``psk``: then nothing else will do, but for
    a ticket of a server that was verified.
    ``groups`` are in the order of preference; a key share is sent for each of ``key_shares``, or for the first group
    if that is empty. ``session_ticket`` is the state of a SessionTicket event of a handshake before; one that does not
    fit (another server name, expired, not verified) is left aside. ``early_data`` asks to send early data with it.
    """

    alpns: tuple[bytes, ...]
    server_name: str | None
    transport_parameters: bytes | None
    verifier: PeerVerifier | None
    credential: Credential | None = None
    cipher_suites: tuple[CipherSuite, ...] = DEFAULT_CIPHER_SUITES
    groups: tuple[Group, ...] = DEFAULT_GROUPS
    key_shares: tuple[Group, ...] = (Group.X25519,)
    session_ticket: bytes | None = field(default=None, repr=False)
    early_data: bool = False
    psk: ExternalPsk | None = None
    compressions: tuple[CertificateCompression, ...] = AVAILABLE
    record_size_limit: int | None = None
    keylog: Callable[[str], None] | None = field(default=None, repr=False)
