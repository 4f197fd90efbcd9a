"""A certificate authority for demonstrations and tests: certificate and key files of every key type."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handshaked.model import KeyType

_MLDSA: dict[KeyType, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    KeyType.MLDSA44: mldsa.MLDSA44PrivateKey.generate,
    KeyType.MLDSA65: mldsa.MLDSA65PrivateKey.generate,
    KeyType.MLDSA87: mldsa.MLDSA87PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path
    leaf: x509.Certificate


class Authority:
    """A root CA that writes to `directory`; ``root`` is the path of its certificate."""

    def __init__(self, directory: Path, name: str = "handshaked test CA") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.root = directory / f"{name.replace(' ', '-')}.pem"
        self.root.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        *names: str,
        key_type: KeyType = KeyType.ECDSA_P256,
        valid: tuple[float, float] = (-1, 90),
        client: bool = False,
        file_name: str | None = None,
    ) -> Issued:
        """Issue a certificate for the DNS names and IP addresses `names`; `valid` is in days from now."""
        key = _generate(key_type)
        now = datetime.now(UTC)
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=valid[0]))
            .not_valid_after(now + timedelta(days=valid[1]))
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        leaf = builder.sign(self._key, hashes.SHA256())
        stem = file_name or f"{names[0].replace('*', 'wildcard')}-{key_type.value}"
        issued = Issued(self._directory / f"{stem}.pem", self._directory / f"{stem}.key", leaf)
        issued.certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
        issued.key.touch(mode=0o600)
        issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return issued


def _generate(key_type: KeyType) -> CertificateIssuerPrivateKeyTypes:
    if key_type in (KeyType.RSA, KeyType.RSA_PSS):
        return rsa.generate_private_key(65537, 2048)
    if key_type is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if key_type is KeyType.ED448:
        return ed448.Ed448PrivateKey.generate()
    if key_type in _MLDSA:
        return _MLDSA[key_type]()
    curves: dict[KeyType, ec.EllipticCurve] = {
        KeyType.ECDSA_P256: ec.SECP256R1(),
        KeyType.ECDSA_P384: ec.SECP384R1(),
        KeyType.ECDSA_P521: ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[key_type])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
