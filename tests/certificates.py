"""Certificates, keys and revocation lists for tests, valid ones and every kind of invalid one."""

from __future__ import annotations

import base64
import functools
import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)

_KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "mldsa44": mldsa.MLDSA44PrivateKey.generate,
    "mldsa65": mldsa.MLDSA65PrivateKey.generate,
    "mldsa87": mldsa.MLDSA87PrivateKey.generate,
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "huge exponent": lambda: key_of_huge_exponent(),
    "dsa": lambda: dsa.generate_private_key(2048),
}
_UNHASHED = ("ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87")


@functools.cache
def key(kind: str = "p256", number: int = 0):
    """Return a private key, the same one for the same arguments."""
    return _KEYS[kind]()


def key_of_huge_exponent() -> rsa.RSAPrivateKey:
    """Return an RSA key whose public operation is as expensive as its private one."""
    numbers = key("rsa2048").private_numbers()
    order = math.lcm(numbers.p - 1, numbers.q - 1)
    d = 65537  # the exponents are swapped
    e = pow(d, -1, order)
    public = rsa.RSAPublicNumbers(e, numbers.public_numbers.n)
    rest = (d % (numbers.p - 1), d % (numbers.q - 1), numbers.iqmp)
    return rsa.RSAPrivateNumbers(numbers.p, numbers.q, d, *rest, public).private_key()


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)] if text else [])


def dns_or_ip(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def names(*texts: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([dns_or_ip(text) for text in texts])


def usages(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def key_usage(*asserted: str) -> x509.KeyUsage:
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in asserted for bit in bits})


def authority(path_length: int | None = None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=path_length)


SERVER = usages(Usage.SERVER_AUTH)
CLIENT = usages(Usage.CLIENT_AUTH)
CRITICAL = (x509.BasicConstraints, x509.NameConstraints, x509.UnrecognizedExtension)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, which can sign others."""

    certificate: x509.Certificate
    key: object
    kind: str
    common_name: str

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def issue(
    common_name: str,
    issuer: Issued | None = None,
    *extensions: x509.ExtensionType,
    kind: str = "p256",
    number: int = 0,
    begin: datetime = NOW - DAY,
    end: datetime = NOW + 30 * DAY,
    serial: int | None = None,
    digest: hashes.HashAlgorithm | None = None,
    critical: bool | None = None,
) -> Issued:
    """Issue a certificate with exactly these extensions; it is self-signed without `issuer`."""
    private = key(kind, number)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(issuer.common_name if issuer else common_name))
        .public_key(private.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, isinstance(extension, CRITICAL) if critical is None else critical)
    signer, signer_kind = (issuer.key, issuer.kind) if issuer else (private, kind)
    digest = None if signer_kind in _UNHASHED else digest or hashes.SHA256()
    return Issued(builder.sign(signer, digest), private, kind, common_name)


def root(common_name: str = "root", *extensions: x509.ExtensionType, **options) -> Issued:
    return issue(common_name, None, authority(), *extensions, **{"number": 100, **options})


def server(
    issuer: Issued | None, *extensions: x509.ExtensionType, common_name: str = "leaf", san: str = "a.example", **options
) -> Issued:
    """Issue a server certificate, valid unless an option says otherwise."""
    return issue(common_name, issuer, names(*san.split()), *(extensions or (SERVER,)), **options)


def client(issuer: Issued | None, *extensions: x509.ExtensionType, **options) -> Issued:
    return issue("client", issuer, *(extensions or (CLIENT,)), **options)


def scoped(**only: object) -> list[tuple[x509.ExtensionType, bool]]:
    """The extension that limits a revocation list to `only` some certificates."""
    fields = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return [(x509.IssuingDistributionPoint(**{**fields, **only}), True)]


def revocation_list(
    issuer: Issued,
    revoked: Sequence[Issued] = (),
    *,
    begin: datetime = NOW - DAY,
    end: datetime | None = NOW + DAY,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """A list that `issuer` signs, DER."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer.common_name))
    builder = builder.last_update(begin).next_update(end)
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(begin)
        builder = builder.add_revoked_certificate(entry.build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = None if issuer.kind in _UNHASHED else hashes.SHA256()
    return builder.sign(issuer.key, digest).public_bytes(Encoding.DER)


def pem_block(label: str, encoded: bytes) -> bytes:
    """DER in PEM."""
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), base64.encodebytes(encoded), label.encode())


def crl_pem(encoded: bytes) -> bytes:
    """A revocation list in PEM."""
    return x509.load_der_x509_crl(encoded).public_bytes(Encoding.PEM)
