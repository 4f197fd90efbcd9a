"""Credentials and a client-server pair in memory, for the tests of the engine."""

import datetime
import functools
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.events import CryptoData, Event, HandshakeComplete, PeerTransportParameters, TrafficSecret
from handshaked.model import Direction, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, Credential, ServerParameters
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.server import ServerHandshake
from tests.raw_certificates import pss_algorithm

NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC).timestamp()
_DAY = datetime.timedelta(days=1)

PSS_KEYS = {
    KeyType.RSA_PSS: pss_algorithm(),
    KeyType.RSA_PSS_SHA256: pss_algorithm("sha256", salt=32),
    KeyType.RSA_PSS_SHA384: pss_algorithm("sha384", salt=48),
    KeyType.RSA_PSS_SHA512: pss_algorithm("sha512", salt=20),
}
_GENERATE = {
    KeyType.ECDSA_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyType.ECDSA_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyType.ECDSA_P521: lambda: ec.generate_private_key(ec.SECP521R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyType.ED448: ed448.Ed448PrivateKey.generate,
    KeyType.RSA: lambda: rsa.generate_private_key(65537, 2048),
    **{kind: lambda: rsa.generate_private_key(65537, 2048) for kind in PSS_KEYS},
    KeyType.MLDSA44: mldsa.MLDSA44PrivateKey.generate,
    KeyType.MLDSA65: mldsa.MLDSA65PrivateKey.generate,
    KeyType.MLDSA87: mldsa.MLDSA87PrivateKey.generate,
}


def with_pss_key(certificate: bytes, algorithm: bytes) -> bytes:
    """Return `certificate` of an RSA key with the `algorithm` of one for RSASSA-PSS; its signature is invalid."""
    plain = bytes.fromhex("300d06092a864886f70d0101010500")
    at = certificate.index(plain)
    made = bytearray(certificate.replace(plain, algorithm, 1))
    for length in (2, 6, at - 2):  # of Certificate, TBSCertificate and SubjectPublicKeyInfo
        size = int.from_bytes(made[length : length + 2]) + len(algorithm) - len(plain)
        made[length : length + 2] = size.to_bytes(2)
    return bytes(made)


@functools.cache
def credential(key_type: KeyType = KeyType.ECDSA_P256, name: str = "a.test") -> Credential:
    """Return a self-signed credential, the same one at each call."""
    key = _GENERATE[key_type]()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    unhashed = key_type in (KeyType.ED25519, KeyType.ED448, KeyType.MLDSA44, KeyType.MLDSA65, KeyType.MLDSA87)
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start - _DAY)
        .not_valid_after(start + 30 * _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, None if unhashed else hashes.SHA256())
    )
    der = certificate.public_bytes(Encoding.DER)
    if algorithm := PSS_KEYS.get(key_type):
        der = with_pss_key(der, algorithm)
    return Credential((der,), PrivateKeySigner(key), key_type)


def private_key(holder: Credential) -> PrivateKeyTypes:
    """Return the private key of a credential that signs in this process."""
    assert isinstance(holder.signer, PrivateKeySigner)
    return holder.signer.private_key


def client_parameters(**changes: object) -> ClientParameters:
    """Return parameters of a QUIC client without a verifier."""
    fields = {
        "alpns": (b"h3", b"h2"),
        "server_name": "a.test",
        "transport_parameters": b"client-tp",
        "verifier": None,
    }
    return ClientParameters(**{**fields, **changes})


def server_parameters(**changes: object) -> ServerParameters:
    """Return parameters of a QUIC server."""
    fields = {"credential": credential(), "alpn": b"h3", "transport_parameters": b"server-tp"}
    return ServerParameters(**{**fields, **changes})


def data(events: list[Event], level: Level | None = None) -> bytes:
    """Return the CRYPTO bytes of `events`, at one level or all."""
    return b"".join(each.data for each in events if isinstance(each, CryptoData) and level in (None, each.level))


def kinds(events: list[Event]) -> list[str]:
    """Return short descriptions of `events`, to compare their order."""
    short = []
    for event in events:
        match event:
            case CryptoData(level):
                short.append(f"crypto {level.name.lower()}")
            case TrafficSecret(level, direction):
                short.append(f"secret {level.name.lower()} {direction.name.lower()}")
            case _:
                short.append(type(event).__name__)
    return short


@dataclass
class Pair:
    """A client and a server connected in memory, and all events of each."""

    client: ClientHandshake
    server: ServerHandshake
    parameters: ServerParameters
    now: float = NOW
    client_events: list[Event] = field(default_factory=list)
    server_events: list[Event] = field(default_factory=list)
    flights: int = 0

    def run(self) -> "Pair":
        """Run the handshake until neither side has anything to send."""
        to_server = self._client(self.client.start(self.now))
        while to_server:
            self.flights += 1
            to_client: list[CryptoData] = []
            for message in to_server:
                to_client += self._server(self.server.receive(message.level, message.data, self.now))
                if self.server.client_hello is not None and not self.server_events:
                    to_client += self._server(self.server.proceed(self.parameters, self.now))
            to_server = []
            for message in to_client:
                to_server += self._client(self.client.receive(message.level, message.data, self.now))
        return self

    def _client(self, events: list[Event]) -> list[CryptoData]:
        self.client_events += events
        return [each for each in events if isinstance(each, CryptoData)]

    def _server(self, events: list[Event]) -> list[CryptoData]:
        self.server_events += events
        return [each for each in events if isinstance(each, CryptoData)]

    def secrets(self) -> dict[tuple[Level, str], bytes]:
        """Return the traffic secrets; assert that they are the same on both sides."""
        client = {
            (each.level, "up" if each.direction is Direction.SEND else "down"): each.secret
            for each in self.client_events
            if isinstance(each, TrafficSecret)
        }
        server = {
            (each.level, "down" if each.direction is Direction.SEND else "up"): each.secret
            for each in self.server_events
            if isinstance(each, TrafficSecret)
        }
        assert client == server
        return client

    @property
    def completed(self) -> tuple[HandshakeComplete, HandshakeComplete]:
        """The HandshakeComplete of the client and of the server."""
        (client,) = (each for each in self.client_events if isinstance(each, HandshakeComplete))
        (server,) = (each for each in self.server_events if isinstance(each, HandshakeComplete))
        return client, server

    @property
    def client_received(self) -> PeerTransportParameters:
        """The server's transport parameters that the client received."""
        (seen,) = (each for each in self.client_events if isinstance(each, PeerTransportParameters))
        return seen


def pair(
    client: ClientParameters | None = None,
    server: ServerParameters | None = None,
    *,
    quic: bool = True,
    now: float = NOW,
) -> Pair:
    """Return a pair that has not started."""
    return Pair(
        ClientHandshake(client or client_parameters(), quic=quic),
        ServerHandshake(quic=quic),
        server or server_parameters(),
        now,
    )
