"""OCSP responses to staple (RFC 6960), and the certificates that require one (must-staple, RFC 7633)."""

from dataclasses import dataclass
from math import inf

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.ocsp import OCSPCertStatus, OCSPSingleResponse

from handshaked.tls.x509.der import elements, pull_element
from handshaked.tls.x509.raw_names import raw_issuer

CLOCK_SKEW = 300.0
"""Most seconds that a response may be ahead of the clock."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """The status of one certificate in an OCSP response, which is valid from ``begin`` to ``end`` (Unix seconds)."""

    serial_number: int
    digest: hashes.HashAlgorithm
    name_hash: bytes
    key_hash: bytes
    is_good: bool
    begin: float
    end: float

    @classmethod
    def of(cls, response: OCSPSingleResponse) -> "CertificateStatus":
        """Return what `response` says; without nextUpdate it has no end (RFC 6960 section 4.2.2.1)."""
        end = response.next_update_utc
        return cls(
            response.serial_number,
            response.hash_algorithm,
            response.issuer_name_hash,
            response.issuer_key_hash,
            response.certificate_status is OCSPCertStatus.GOOD,
            response.this_update_utc.timestamp() - CLOCK_SKEW,
            inf if end is None else end.timestamp(),
        )

    def is_by_issuer(self, leaf: bytes, issuer: x509.Certificate | None) -> bool:
        """Return whether it names the issuer of `leaf` (DER): by name, and by key if the `issuer` is known."""
        if self.name_hash != self._hashed(raw_issuer(leaf)):
            return False
        return issuer is None or self.key_hash == self._hashed(_key_bits(issuer))

    def _hashed(self, content: bytes) -> bytes:
        hashed = hashes.Hash(self.digest)
        hashed.update(content)
        return hashed.finalize()


def requires_staple(certificate: x509.Certificate) -> bool:
    """Return whether clients must refuse a certificate without a stapled response."""
    try:
        features = certificate.extensions.get_extension_for_class(x509.TLSFeature).value
    except x509.ExtensionNotFound:
        return False
    return x509.TLSFeatureType.status_request in features


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return the public key that is hashed (RFC 6960 section 4.1.1): the BIT STRING without tag and unused bits."""
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _, bits = elements(encoded, pull_element(encoded))
    return encoded[bits.begin + 1 : bits.end]
