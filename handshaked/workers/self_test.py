"""The watchdog's self-test: a handshake of the daemon with itself, in both roles, through the handshake socket."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handshaked.errors import Status
from handshaked.events import CryptoData
from handshaked.model import Outcome, Role
from handshaked.registry.credentials import load_pem
from handshaked.registry.names import SELF_TEST_REGISTRATION, SELF_TEST_SERVER_NAME
from handshaked.registry.store import NewRegistration, Source
from handshaked.shim import HandshakeClient, Message, PendingHandshake
from handshaked.wire.messages import Done, Start

ALPN = b"handshaked-self-test"
_SECONDS = 5.0
_TRANSPORT_PARAMETERS = b"\x04\x01\x00"  # initial_max_data 0: RFC 9000 section 18.2
# RFC 5280 section 4.1.2.5: a certificate without expiry. The test must not depend on the clock.
_FROM, _UNTIL = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The daemon's own registration, and the trust anchor of its certificate."""

    registration: NewRegistration = field(repr=False)
    anchor: bytes = field(repr=False)

    @classmethod
    def make(cls, owner: int) -> "SelfTest":
        """Return a new self-test with a new key, for which only `owner` is permitted."""
        anchor_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        anchor = _certificate("handshaked self-test CA", anchor_key, anchor_key, ca=True)
        leaf = _certificate(SELF_TEST_SERVER_NAME, key, anchor_key, ca=False)
        loaded = load_pem(
            leaf.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        registration = NewRegistration(
            SELF_TEST_REGISTRATION, owner, (SELF_TEST_SERVER_NAME,), (ALPN,), ((loaded, Source()),)
        )
        return cls(registration, anchor.public_bytes(Encoding.DER))

    async def run(self, handshake_socket: Path) -> str | None:
        """Run a handshake through `handshake_socket`; return None on success, else the cause of the failure."""
        try:
            client = HandshakeClient(handshake_socket)
            try:
                async with asyncio.timeout(_SECONDS):
                    return await _Exchange(client, self.anchor).finished
            finally:
                client.close()
        except TimeoutError:
            return f"no answer within {_SECONDS:g} s"
        except OSError as error:
            return f"{handshake_socket}: {error.strerror or error}"


class _Exchange:
    """Two handshakes in the daemon, each the other's peer."""

    def __init__(self, client: HandshakeClient, anchor: bytes) -> None:
        self.finished: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._outcomes: dict[Role, Outcome] = {}
        server_start = Start(
            role=Role.SERVER,
            timeout=_SECONDS,
            alpns=(ALPN,),
            registration=SELF_TEST_REGISTRATION,
            transport_parameters=_TRANSPORT_PARAMETERS,
        )
        client_start = Start(
            role=Role.CLIENT,
            timeout=_SECONDS,
            alpns=(ALPN,),
            server_name=SELF_TEST_SERVER_NAME,
            transport_parameters=_TRANSPORT_PARAMETERS,
            trust_anchors=(anchor,),
        )
        self._sides: dict[Role, PendingHandshake] = {}
        self._sides[Role.SERVER] = client.start(server_start, lambda message: self._on_message(Role.SERVER, message))
        self._sides[Role.CLIENT] = client.start(client_start, lambda message: self._on_message(Role.CLIENT, message))

    def _on_message(self, role: Role, message: Message) -> None:
        if isinstance(message, CryptoData):
            self._sides[Role.SERVER if role is Role.CLIENT else Role.CLIENT].receive(message.level, message.data)
        elif isinstance(message, Done):
            self._outcomes[role] = message.outcome
            failed = message.outcome.status != Status.OK
            if (failed or len(self._outcomes) == 2) and not self.finished.done():
                self.finished.set_result(f"{role.name.lower()}: {message.outcome.reason}" if failed else None)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    issuer = name if ca else "handshaked self-test CA"
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if ca:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.DNSName(SELF_TEST_SERVER_NAME)])
        builder = builder.add_extension(names, critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())
