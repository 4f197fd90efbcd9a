"""Certificates and revocation lists built from DER elements: also those that `cryptography` does not write.

Keys for RSASSA-PSS with parameters, dates in GeneralizedTime, defaults that are encoded, names of every form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

DIGESTS = {"sha1": 26, "sha224": 4, "sha256": 1, "sha384": 2, "sha512": 3}
_HASHES = {
    "sha1": hashes.SHA1(),  # noqa: S303 - to be refused
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
SERVER, CLIENT, ANY_USAGE = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0"


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode one element."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def boolean(value: bool) -> bytes:
    return tlv(0x01, b"\xff" if value else b"\0")


def oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    encoded = bytearray([40 * first + second])
    for number in rest:
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(septets))
    return tlv(0x06, bytes(encoded))


def utf8(text: str) -> bytes:
    return tlv(0x0C, text.encode())


def utc_time(text: str) -> bytes:
    return tlv(0x17, text.encode())


def generalized_time(text: str) -> bytes:
    return tlv(0x18, text.encode())


def name(*attributes: tuple[str, bytes]) -> bytes:
    """Encode a name of attributes: types, and encoded values."""
    return sequence(*(tlv(0x31, sequence(oid(kind), value)) for kind, value in attributes))


def common_name(text: str) -> bytes:
    return name(("2.5.4.3", utf8(text)))


def extension(kind: str, value: bytes, critical: bool | None = None) -> bytes:
    """Encode an extension; `critical` None leaves the default out, False encodes it, which DER does not allow."""
    return sequence(oid(kind), b"" if critical is None else boolean(critical), tlv(0x04, value))


def dns(text: str) -> bytes:
    return tlv(0x82, text.encode())


def mail(text: str) -> bytes:
    return tlv(0x81, text.encode())


def uri(text: str) -> bytes:
    return tlv(0x86, text.encode())


def address(packed: bytes) -> bytes:
    return tlv(0x87, packed)


def directory(encoded: bytes) -> bytes:
    return tlv(0xA4, encoded)


def other_name(kind: str, value: bytes) -> bytes:
    return tlv(0xA0, oid(kind), tlv(0xA0, value))


def registered_id(text: str) -> bytes:
    return b"\x88" + oid(text)[1:]


def alternative_names(*names: bytes, critical: bool | None = None) -> bytes:
    return extension("2.5.29.17", sequence(*names), critical)


def basic_constraints(ca: bool | None, length: int | None = None, critical: bool | None = True) -> bytes:
    """Encode basic constraints; `ca` None leaves the default out, False encodes it, which DER does not allow."""
    parts = (b"" if ca is None else boolean(ca), b"" if length is None else integer(length))
    return extension("2.5.29.19", sequence(*parts), critical)


def key_usage(*bits: int, critical: bool | None = True) -> bytes:
    """Encode a key usage with these bits (RFC 5280 section 4.2.1.3): 0 digitalSignature, 5 keyCertSign, 6 cRLSign."""
    value = sum(1 << (15 - bit) for bit in bits).to_bytes(2).rstrip(b"\0")
    unused = (value[-1] & -value[-1]).bit_length() - 1 if value else 0
    return extension("2.5.29.15", tlv(0x03, bytes([unused]), value), critical)


def extended_usage(*purposes: str, critical: bool | None = None) -> bytes:
    return extension("2.5.29.37", sequence(*map(oid, purposes)), critical)


def name_constraints(
    permitted: tuple[bytes, ...] = (), excluded: tuple[bytes, ...] = (), critical: bool | None = True
) -> bytes:
    subtrees = (
        tlv(tag, *(sequence(base) for base in bases)) for tag, bases in ((0xA0, permitted), (0xA1, excluded)) if bases
    )
    return extension("2.5.29.30", sequence(*subtrees), critical)


def digest_algorithm(digest: str) -> bytes:
    number = DIGESTS[digest]
    return sequence(oid("1.3.14.3.2.26" if digest == "sha1" else f"2.16.840.1.101.3.4.2.{number}"), b"\x05\0")


def pss_algorithm(digest: str | None = None, mask_digest: str | None = None, salt: int = 20) -> bytes:
    """Encode id-RSASSA-PSS, with parameters if there is a `digest`; defaults are left out (RFC 4055 section 3.1)."""
    if digest is None:
        return sequence(oid("1.2.840.113549.1.1.10"))
    mask_digest = mask_digest or digest
    mask = sequence(oid("1.2.840.113549.1.1.8"), digest_algorithm(mask_digest))
    parameters = sequence(
        b"" if digest == "sha1" else tlv(0xA0, digest_algorithm(digest)),
        b"" if mask_digest == "sha1" else tlv(0xA1, mask),
        b"" if salt == 20 else tlv(0xA2, integer(salt)),
    )
    return sequence(oid("1.2.840.113549.1.1.10"), parameters)


@dataclass(frozen=True)
class Signing:
    """A signature scheme: a digest, and for RSA whether it is RSASSA-PSS, and its other parameters."""

    digest: str = "sha256"
    pss: bool = False
    mask_digest: str | None = None
    salt: int = 32

    def algorithm(self, key: object) -> bytes:
        """Encode the signature algorithm."""
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return sequence(
                oid(f"1.2.840.10045.4.3.{ {'sha224': 1, 'sha256': 2, 'sha384': 3, 'sha512': 4}[self.digest] }")
            )
        if isinstance(key, rsa.RSAPrivateKey):
            if self.pss:
                return pss_algorithm(self.digest, self.mask_digest, self.salt)
            number = {"sha1": 5, "sha224": 14, "sha256": 11, "sha384": 12, "sha512": 13}[self.digest]
            return sequence(oid(f"1.2.840.113549.1.1.{number}"), b"\x05\0")
        kind = type(key).__name__
        return sequence(oid("1.3.101.112" if "25519" in kind else "1.3.101.113"))

    def sign(self, key: object, content: bytes) -> bytes:
        digest = _HASHES[self.digest]
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(content, ec.ECDSA(digest))
        if isinstance(key, rsa.RSAPrivateKey):
            mask = padding.MGF1(_HASHES[self.mask_digest or self.digest])
            return key.sign(content, padding.PSS(mask, self.salt) if self.pss else padding.PKCS1v15(), digest)
        return key.sign(content)


@dataclass(frozen=True)
class Raw:
    """A certificate and its key; the certificates that it issues are signed as `signing` says."""

    der: bytes
    key: object = field(repr=False)
    subject: bytes = field(repr=False)
    signing: Signing = Signing()


DEFAULT_DATES = (utc_time("261123120000Z"), utc_time("261224120000Z"))
"""Around ``tests.certificates.NOW``."""


def certificate(
    key: object,
    subject: bytes,
    issuer: Raw | None = None,
    *extensions: bytes,
    dates: tuple[bytes, bytes] = DEFAULT_DATES,
    serial: int = 7,
    version: int | None = 2,
    key_algorithm: bytes | None = None,
    signing: Signing | None = None,
    signs: Signing = Signing(),
    issuer_name: bytes | None = None,
) -> Raw:
    """Build a certificate, self-signed without `issuer`.

    `key_algorithm` replaces that of the public key, `signing` that of the issuer; `signs` is how the key signs others.
    `issuer_name` replaces the issuer's subject.
    """
    signing = signing or (issuer.signing if issuer else signs)
    signer = issuer.key if issuer else key
    algorithm = signing.algorithm(signer)
    content = sequence(
        b"" if version is None else tlv(0xA0, integer(version)),
        integer(serial),
        algorithm,
        issuer_name or (issuer.subject if issuer else subject),
        sequence(*dates),
        subject,
        public_key(key, key_algorithm),
        tlv(0xA3, sequence(*extensions)) if extensions else b"",
    )
    return Raw(_signed(content, algorithm, signing.sign(signer, content)), key, subject, signs)


def public_key(key: object, algorithm: bytes | None = None) -> bytes:
    """Encode a SubjectPublicKeyInfo, if need be with another algorithm."""
    encoded = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if algorithm is None:
        return encoded
    numbers = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return sequence(algorithm, tlv(0x03, b"\0", numbers))


def private_key(key: object) -> bytes:
    """Encode a private key in PKCS#8."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def revocation_list(
    issuer: Raw,
    serials: tuple[int, ...] = (),
    *,
    dates: tuple[bytes, bytes] = DEFAULT_DATES,
    signing: Signing | None = None,
    extensions: tuple[bytes, ...] = (),
) -> bytes:
    """Build a revocation list in DER."""
    signing = signing or issuer.signing
    algorithm = signing.algorithm(issuer.key)
    revoked = sequence(*(sequence(integer(serial), dates[0]) for serial in serials)) if serials else b""
    content = sequence(
        integer(1),
        algorithm,
        issuer.subject,
        *dates,
        revoked,
        tlv(0xA0, sequence(*extensions)) if extensions else b"",
    )
    return _signed(content, algorithm, signing.sign(issuer.key, content))


def _signed(content: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return sequence(content, algorithm, tlv(0x03, b"\0", signature))
