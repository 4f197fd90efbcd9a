"""Events of a handshake, in the order in which a data path needs them.

Server, on the complete ClientHello: PeerTransportParameters; once its own transport parameters are known:
CryptoData(INITIAL), TrafficSecret(HANDSHAKE, SEND), TrafficSecret(HANDSHAKE, RECEIVE), CryptoData(HANDSHAKE),
TrafficSecret(APPLICATION, SEND). On the client's Finished: TrafficSecret(APPLICATION, RECEIVE), CryptoData(APPLICATION)
if there are session tickets, HandshakeComplete. If early data is accepted, TrafficSecret(EARLY, RECEIVE) comes
first; over TCP, TrafficSecret(HANDSHAKE, RECEIVE) then waits for EndOfEarlyData.

Client, at the start: CryptoData(INITIAL). On the ServerHello: TrafficSecret(HANDSHAKE, RECEIVE),
TrafficSecret(HANDSHAKE, SEND). On EncryptedExtensions: PeerTransportParameters. On the server's Finished:
TrafficSecret(APPLICATION, RECEIVE), TrafficSecret(APPLICATION, SEND), CryptoData(HANDSHAKE), HandshakeComplete. If
early data may be sent, TrafficSecret(EARLY, SEND) follows CryptoData(INITIAL); over TCP, CryptoData(EARLY) precedes
CryptoData(HANDSHAKE) if it was accepted. SessionTicket comes at any time after HandshakeComplete, once for each ticket.

If the own certificate is sent and its credential has no signer, SignatureNeeded comes before CryptoData(HANDSHAKE), and
the rest when the signature is given.

A HelloRetryRequest adds one CryptoData(INITIAL) on each side. Over TCP, TrafficSecret(APPLICATION) may change later
on either side (KeyUpdate, RFC 8446 section 4.6.3).

HandshakeFailed comes once and is the last event. After HandshakeComplete it means that the peer has violated the
protocol since: the connection must be closed.
"""

from dataclasses import dataclass, field

from handshaked.errors import Alert, HandshakeError
from handshaked.model import CipherSuite, Direction, Level, SignatureScheme


@dataclass(frozen=True, slots=True)
class PeerTransportParameters:
    """The peer's QUIC transport parameters: the raw body of extension 0x39 (RFC 9001 section 8.2).

    ``alpn`` is the selected application protocol.
    """

    transport_parameters: bytes
    alpn: bytes


@dataclass(frozen=True, slots=True)
class TrafficSecret:
    """A traffic secret (RFC 8446 section 7.1), 32 or 48 bytes, which the repr omits."""

    level: Level
    direction: Direction
    cipher_suite: CipherSuite
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CryptoData:
    """Complete handshake messages to send to the peer at one encryption level."""

    level: Level
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignatureNeeded:
    """The handshake waits for a signature, as ``Signer.sign`` makes it, by the credential's key. Always the last event.

    It comes only if the credential has no signer.
    """

    scheme: SignatureScheme
    transcript_hash: bytes
    by_server: bool


@dataclass(frozen=True, slots=True)
class HandshakeComplete:
    """The peer's Finished was verified. ``peer_certificates`` are DER, leaf first, verified if requested.

    ``psk_identity`` is that of the external PSK that authenticated both sides, if any. ``peer_keys`` and ``tags`` are
    as in Outcome.
    """

    alpn: bytes | None
    server_name: str | None
    cipher_suite: CipherSuite
    resumed: bool
    peer_certificates: tuple[bytes, ...] = ()
    registration: str | None = None
    psk_identity: bytes | None = None
    early_data_accepted: bool = False
    peer_keys: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """The opaque state that resumes a session, for single use until ``expires`` (Unix seconds); as secret as a key.

    ``early_data``: the server accepts early data with it.
    """

    state: bytes = field(repr=False)
    expires: float
    early_data: bool = False


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """The handshake is over. ``alert`` or, over QUIC, ``quic_error`` is for the peer, ``reason`` for people."""

    alert: Alert
    reason: str
    status: int
    quic_error: int

    @classmethod
    def of(cls, error: HandshakeError) -> "HandshakeFailed":
        """Return the event of `error`."""
        return cls(error.alert, error.reason, error.status, error.quic_error)


Event = (
    PeerTransportParameters
    | TrafficSecret
    | CryptoData
    | SignatureNeeded
    | HandshakeComplete
    | SessionTicket
    | HandshakeFailed
)
