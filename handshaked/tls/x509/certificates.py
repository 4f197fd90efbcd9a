"""Checks on single X.509 certificates, and on the size of a peer's chain."""

import enum
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from handshaked.errors import Alert, PeerError, UnsupportedKeyError
from handshaked.tls.x509.keys import check_strength, key_type_of, may_have_signed
from handshaked.tls.x509.parsing import MALFORMED, parse_certificate, shown, well_formed

MAX_CERTIFICATES = 10
"""Longest chain that is accepted, in certificates."""

MAX_CERTIFICATE = 32 * 1024
"""Largest certificate that is accepted, in bytes of DER."""

MAX_SIGNATURE_CHECKS = 16
"""Most signatures that each step of verifying a chain looks at: with keys of P-384 they take 9 ms."""

_oids = SignatureAlgorithmOID
_SIGNATURES = {
    _oids.RSA_WITH_SHA256,
    _oids.RSA_WITH_SHA384,
    _oids.RSA_WITH_SHA512,
    _oids.ECDSA_WITH_SHA256,
    _oids.ECDSA_WITH_SHA384,
    _oids.ECDSA_WITH_SHA512,
    _oids.ED25519,
    _oids.ED448,
    _oids.ML_DSA_44,
    _oids.ML_DSA_65,
    _oids.ML_DSA_87,
}
_PSS_DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


Path = tuple[x509.Certificate, ...]
"""A leaf, the certificate of its issuer, and so on."""

# Critical extensions that are processed (RFC 5280 section 4.2).
_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,
    x509.NameConstraints,
)


class Purpose(enum.Enum):
    """The role that a peer's certificate is checked for; the value is the extended key usage that allows it."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

    @property
    def label(self) -> str:
        """The role in lower case, for messages."""
        return self.name.lower()


def pull_chain(chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    """Parse a peer's chain, leaf first, and drop duplicates.

    PeerError if there is no certificate, if there are too many, or if one is too large or malformed.
    """
    if not chain:
        raise PeerError(Alert.DECODE_ERROR, "the peer's certificate chain is empty")
    if len(chain) > MAX_CERTIFICATES:
        raise PeerError(
            Alert.BAD_CERTIFICATE, f"the peer sent {len(chain)} certificates, the limit is {MAX_CERTIFICATES}"
        )
    for certificate in chain:
        if len(certificate) > MAX_CERTIFICATE:
            raise PeerError(
                Alert.BAD_CERTIFICATE,
                f"the peer sent a certificate of {len(certificate)} bytes, the limit is {MAX_CERTIFICATE}",
            )
    with well_formed():
        return [_pull_certificate(certificate) for certificate in dict.fromkeys(chain)]


def _pull_certificate(encoded: bytes) -> x509.Certificate:
    certificate = parse_certificate(encoded)
    # The signature comes last, a BIT STRING of whole bytes. No signature covers its count of unused bits, and the
    # library ignores it. Refuse all but 0, so that a certificate has one encoding.
    if encoded[-len(certificate.signature) - 1]:
        raise ValueError("the signature has unused bits")
    return certificate


def subject(certificate: x509.Certificate) -> str:
    """Return a certificate's subject, fit for a log."""
    return name_text(certificate.subject)


def issuer(certificate: x509.Certificate) -> str:
    """Return the issuer that a certificate names, fit for a log."""
    return name_text(certificate.issuer)


def name_text(name: x509.Name) -> str:
    """Return a name, fit for a log."""
    return shown(name.rfc4514_string()) or "(no name)"


def check_dates(certificate: x509.Certificate, now: float) -> None:
    """Refuse a certificate that is not valid at `now`, in Unix seconds (RFC 5280 section 6.1.3 (a) (2))."""
    moment = datetime.fromtimestamp(now, UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if moment < begin:
        raise PeerError(
            Alert.CERTIFICATE_EXPIRED,
            f"the certificate of {subject(certificate)} is not valid before {begin:%Y-%m-%d %H:%M} UTC:"
            " check the clock on both sides",
        )
    if moment > end:
        raise PeerError(
            Alert.CERTIFICATE_EXPIRED,
            f"the certificate of {subject(certificate)} expired at {end:%Y-%m-%d %H:%M} UTC: renew it",
        )


def check_key(certificate: x509.Certificate) -> None:
    """Refuse keys that are weak or that no TLS 1.3 signature scheme uses."""
    try:
        key_type_of(certificate)
        check_strength(certificate.public_key())
    except UnsupportedKeyError as error:
        raise _unsupported(certificate, f"has a key that cannot be used: {error}") from None


def check_signature_algorithm(certificate: x509.Certificate) -> None:
    """Refuse signatures with MD5 or SHA-1 (bad_certificate: RFC 8446 section 4.4.2.4), and with rarer algorithms."""
    if not has_sound_signature_algorithm(certificate):
        raise PeerError(
            Alert.BAD_CERTIFICATE,
            f"the certificate of {subject(certificate)} is signed with an unsupported algorithm"
            f" ({certificate.signature_algorithm_oid.dotted_string}): reissue it with SHA-256 or better",
        )


def has_sound_signature_algorithm(signed: x509.Certificate | x509.CertificateRevocationList) -> bool:
    """Return whether a certificate or list is signed with an accepted algorithm."""
    if signed.signature_algorithm_oid == _oids.RSASSA_PSS:
        return isinstance(signed.signature_hash_algorithm, _PSS_DIGESTS)
    return signed.signature_algorithm_oid in _SIGNATURES


def check_leaf_usage(certificate: x509.Certificate, purpose: Purpose) -> None:
    """Refuse a leaf whose usages exclude signing handshakes, or exclude `purpose`.

    RFC 8446 section 4.4.2.2 and RFC 5280 section 4.2.1.12.
    """
    if not may_sign_handshakes(certificate):
        raise _unsupported(certificate, "has a key usage without digitalSignature")
    usages = extended_usages_of(certificate)
    if usages is not None and purpose.value not in usages:
        raise _unsupported(certificate, f"is not for {purpose.label}s by its extended key usage")


def may_sign_handshakes(certificate: x509.Certificate) -> bool:
    """Return whether the key usage of a leaf, if any, contains digitalSignature (RFC 8446 section 4.4.2.2)."""
    key_usage = key_usage_of(certificate)
    return key_usage is None or key_usage.digital_signature


def purposes_of(certificate: x509.Certificate) -> frozenset[Purpose]:
    """Return the roles that an own certificate can be presented in; some peers accept anyExtendedKeyUsage."""
    usages = extended_usages_of(certificate)
    if usages is None or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages:
        return frozenset(Purpose)
    return frozenset(purpose for purpose in Purpose if purpose.value in usages)


def check_issuer_usage(certificate: x509.Certificate, purpose: Purpose) -> None:
    """Refuse a CA whose usages exclude signing certificates, or exclude `purpose`.

    RFC 5280 sections 4.2.1.3 and 4.2.1.12.
    """
    key_usage = key_usage_of(certificate)
    if key_usage is not None and not key_usage.key_cert_sign:
        raise _unsupported(certificate, "has a key usage without keyCertSign")
    usages = extended_usages_of(certificate)
    if usages is not None and not {purpose.value, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & usages:
        raise _unsupported(certificate, f"is not for issuing certificates of {purpose.label}s")


def check_critical_extensions(certificate: x509.Certificate) -> None:
    """Refuse critical extensions that are not processed (RFC 5280 section 4.2)."""
    for extension in certificate.extensions:
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise PeerError(
                Alert.BAD_CERTIFICATE,
                f"the certificate of {subject(certificate)} has the critical extension {extension.oid.dotted_string},"
                " which is not supported",
            )


def key_usage_of(certificate: x509.Certificate) -> x509.KeyUsage | None:
    """Return the key usage extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def extended_usages_of(certificate: x509.Certificate) -> set[x509.ObjectIdentifier] | None:
    """Return the extended key usages, or None if the certificate does not limit them."""
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None


def basic_constraints_of(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    """Return the basic constraints extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def count_names(certificate: x509.Certificate) -> int:
    """Return the number of names that name constraints apply to: the alternative names and the subject."""
    try:
        return 1 + len(list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value))
    except x509.ExtensionNotFound:
        return 1


def count_constraints(certificate: x509.Certificate) -> int:
    """Return the number of a certificate's name constraints."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return 0
    return len(found.permitted_subtrees or ()) + len(found.excluded_subtrees or ())


def is_plain_root(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is a root without basic constraints: X.509 version 1, or with keyCertSign only."""
    if certificate.subject != certificate.issuer or basic_constraints_of(certificate) is not None:
        return False
    key_usage = key_usage_of(certificate)
    return certificate.version is x509.Version.v1 or (key_usage is not None and key_usage.key_cert_sign)


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether `authority` issued a certificate, by name and by signature."""
    try:
        if not may_have_signed(authority, certificate):
            return False
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *MALFORMED):
        return False
    return True


def _unsupported(certificate: x509.Certificate, wrong: str) -> PeerError:
    return PeerError(
        Alert.UNSUPPORTED_CERTIFICATE, f"the certificate of {subject(certificate)} {wrong}: reissue the certificate"
    )
