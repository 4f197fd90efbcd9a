"""Parameters of a handshake: credentials and settings of both sides, and the ClientHello that a server selects by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from handshaked.model import DEFAULT_CIPHER_SUITES, CipherSuite, ClientAuth, Group, KeyType, Signer
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


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain (DER, leaf first) and the signer of its private key: None if the engine must wait for one.

    ``ocsp_response`` (DER) is stapled if the peer requests it, from the first to the second time of ``ocsp_valid``, in
    Unix seconds. ``messages`` caches encoded messages: make a new Credential for a new response.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    signer: Signer | None = field(repr=False)
    key_type: KeyType
    ocsp_response: bytes | None = field(default=None, repr=False)
    ocsp_valid: tuple[float, float] = (-inf, inf)
    messages: dict[tuple[bool, int], bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def has_staple(self, now: float) -> bool:
        """Return whether there is a response that is valid at `now`."""
        return self.ocsp_response is not None and self.ocsp_valid[0] <= now <= self.ocsp_valid[1]


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The fields of a ClientHello that a server selects a credential by.

    ``server_name`` is the SNI host name as sent, ``alpns`` the protocols in the client's order (empty without the
    extension), ``signature_schemes`` code points, ``transport_parameters`` the body of extension 0x39 or None.
    ``signature_schemes_cert`` are those for the signatures in the chain (the same ones, unless the client sends
    signature_algorithms_cert).
    """

    server_name: str | None
    alpns: tuple[bytes, ...]
    signature_schemes: tuple[int, ...]
    transport_parameters: bytes | None
    signature_schemes_cert: tuple[int, ...] = ()


class PeerVerifier(Protocol):
    """Verifies the certificate chain of a server."""

    @property
    def trust(self) -> bytes:
        """A digest, 32 bytes, of all that decides which chains are accepted: sessions are not resumed under another."""
        ...

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """Accept `chain` (DER, leaf first) for `server_name` (host name or IP address) at `now` (Unix seconds).

        Raises PeerError with the appropriate alert: unknown_ca, certificate_expired, bad_certificate.
        """
        ...


class ClientCertificateVerifier(Protocol):
    """Verifies the certificate chain of a client."""

    @property
    def trust(self) -> bytes:
        """As ``PeerVerifier.trust``."""
        ...

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """Accept `chain` (DER, leaf first) at `now` (Unix seconds); PeerError with the appropriate alert if not."""
        ...


class ReplayGuard(Protocol):
    """Records the tickets that early data was accepted with, for all workers (RFC 8446 section 8.1)."""

    def first_use(self, ticket: bytes, issued: float, expires: float, now: float) -> bool:
        """Record `ticket` (a digest, 16 bytes) until `expires`; return whether it is new. Times are Unix seconds.

        Atomic across workers. Return False when in doubt, which only rejects early data: in particular for tickets
        that were `issued` before the guard began to record (RFC 8446 section 8.2).
        """
        ...


@dataclass(frozen=True, slots=True)
class EarlyData:
    """Makes a server accept early data, protected against replay by ``guard``.

    ``context`` identifies what early data relies on besides ALPN and server name, such as the transport parameters that
    a client remembers: tickets with another context resume without early data. ``max_size`` (bytes) is for TCP: QUIC
    has its own limits. ``window`` is the tolerance of a ticket's age in seconds (RFC 8446 section 8.3).
    """

    guard: ReplayGuard
    context: bytes = b""
    max_size: int = 16384
    window: float = 10.0


@dataclass(frozen=True, slots=True)
class Tickets:
    """A server's settings for session tickets. ``lifetime`` is in seconds, at most 7 days."""

    keys: TicketKeys
    count: int = 1
    lifetime: int = 24 * 3600


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """The parameters with which a server continues after a ClientHello.

    ``cipher_suites`` and ``groups`` are in order of preference; a group with a key share from the client is preferred
    over one that requires a HelloRetryRequest. Without a ``credential`` the handshake requires a PSK.

    A session ticket is valid for the same transport, server name, ``alpn``, ``registration`` and its ``owner`` (a uid),
    kinds of authentication (``credential``, ``psks``, ``client_auth``) and ``client_verifier.trust``.
    ``client_authorities`` are DER names that help the client choose its certificate.

    ``record_size_limit`` and the size of early data are for TCP. ``keylog`` receives lines in the SSLKEYLOGFILE format,
    which contain secrets.
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
    tickets: Tickets | None = None
    early_data: EarlyData | None = None
    psks: PskSource | None = None
    compressions: tuple[CertificateCompression, ...] = AVAILABLE
    record_size_limit: int | None = None
    keylog: Callable[[str], None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClientParameters:
    """The parameters with which a client starts.

    Without a ``verifier`` any server certificate is accepted, unless there is a ``psk``: then the server must accept
    that, or the ticket of a session that began with it. ``groups`` are in order of preference; a key share is
    sent for each of ``key_shares``, or for the first group if that is empty. ``session_ticket`` is the state of an
    earlier SessionTicket event; it is ignored if it does not apply (another server name, transport, way to authenticate
    either side, or ``verifier.trust``; expired).
    ``early_data`` offers early data with it.
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
