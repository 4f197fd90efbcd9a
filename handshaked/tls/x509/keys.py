"""The public keys that TLS 1.3 can use, and the limits that a certificate sets on its own key.

One rule for own certificates, at registration, and for those of peers.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import PublicKeyAlgorithmOID, SignatureAlgorithmOID

from handshaked.errors import UnsupportedKeyError
from handshaked.model import KeyType
from handshaked.tls.x509 import der
from handshaked.tls.x509.parsing import MALFORMED
from handshaked.tls.x509.pss import PssParameters, pull_algorithm

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 64

_CURVES: dict[type[ec.EllipticCurve], KeyType] = {
    ec.SECP256R1: KeyType.ECDSA_P256,
    ec.SECP384R1: KeyType.ECDSA_P384,
    ec.SECP521R1: KeyType.ECDSA_P521,
}
_OTHERS: dict[type, KeyType] = {
    ed25519.Ed25519PublicKey: KeyType.ED25519,
    ed448.Ed448PublicKey: KeyType.ED448,
    mldsa.MLDSA44PublicKey: KeyType.MLDSA44,
    mldsa.MLDSA65PublicKey: KeyType.MLDSA65,
    mldsa.MLDSA87PublicKey: KeyType.MLDSA87,
}
_RESTRICTED = {
    "sha256": KeyType.RSA_PSS_SHA256,
    "sha384": KeyType.RSA_PSS_SHA384,
    "sha512": KeyType.RSA_PSS_SHA512,
}
_DIGEST_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}


def key_type_of(certificate: x509.Certificate) -> KeyType:
    """Return the type of a certificate's key; UnsupportedKeyError if no signature scheme of TLS 1.3 fits it."""
    try:
        key_type = plain_key_type(certificate.public_key())
        return _restricted_type(certificate) if _is_for_pss_only(certificate) else key_type
    except MALFORMED:
        raise UnsupportedKeyError("keys of this unknown type are not supported") from None


def check_strength(key: PublicKeyTypes) -> None:
    """Refuse RSA keys that are weak, or whose signatures take long to verify, with UnsupportedKeyError."""
    if not isinstance(key, rsa.RSAPublicKey):
        return
    bits = key.key_size
    if bits < MIN_RSA_BITS:
        raise UnsupportedKeyError(f"an RSA key of {bits} bits is too weak; use {MIN_RSA_BITS} or more")
    if bits > MAX_RSA_BITS:
        raise UnsupportedKeyError(f"an RSA key of {bits} bits is too slow; use {MAX_RSA_BITS} or less")
    if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise UnsupportedKeyError(f"an RSA exponent of over {MAX_RSA_EXPONENT_BITS} bits is too slow; use 65537")


def plain_key_type(key: PublicKeyTypes) -> KeyType:
    """Return the type of a public key without what a certificate says of it; UnsupportedKeyError as above."""
    if isinstance(key, rsa.RSAPublicKey):
        return KeyType.RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        if type(key.curve) not in _CURVES:
            raise UnsupportedKeyError(f"curve {key.curve.name} is not supported; use P-256, P-384 or P-521")
        return _CURVES[type(key.curve)]
    for kind, key_type in _OTHERS.items():
        if isinstance(key, kind):
            return key_type
    algorithm = type(key).__name__.removesuffix("PublicKey")
    raise UnsupportedKeyError(f"{algorithm} keys are not supported; use ECDSA, Ed25519, Ed448, ML-DSA or RSA")


def _restricted_type(certificate: x509.Certificate) -> KeyType:
    limits = pss_limits(certificate)
    if limits is None:
        return KeyType.RSA_PSS
    # RFC 8446 section 4.2.3: both digests are that of the scheme, and the salt is as long as the digest. RFC 4055
    # section 3.3: the key's saltLength is the least that a signature may have.
    if (
        limits.digest not in _RESTRICTED
        or limits.mask_digest != limits.digest
        or limits.salt > _DIGEST_SIZES[limits.digest]
    ):
        raise UnsupportedKeyError(
            f"the RSA-PSS key is restricted to {limits}, which no signature scheme of TLS 1.3 uses; make one for"
            " SHA-256, SHA-384 or SHA-512, with the same digest in MGF1, and a salt of no more than the digest's length"
        )
    return _RESTRICTED[limits.digest]


def may_have_signed(certificate: x509.Certificate, signed: x509.Certificate | x509.CertificateRevocationList) -> bool:
    """Return whether the limits of a certificate's key allow the signature algorithm of what it `signed`.

    RFC 4055 section 3.3. Raises one of ``MALFORMED`` if parameters of RSASSA-PSS are malformed.
    """
    if not _is_for_pss_only(certificate):
        return True
    if signed.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        return False
    limits = pss_limits(certificate)
    if limits is None:
        return True
    # Certificate and CertificateList: the content, signatureAlgorithm, signature.
    algorithm = list(der.parts(signed.public_bytes(Encoding.DER)))[1]
    used = pull_algorithm(algorithm)
    return used is not None and used.obeys(limits)


def pss_limits(certificate: x509.Certificate) -> PssParameters | None:
    """Return the parameters in a certificate's key for RSASSA-PSS, or None if there are none.

    Raises one of ``MALFORMED``. `cryptography` drops them.
    """
    key = list(der.tbs_fields(certificate.public_bytes(Encoding.DER)))[der.PUBLIC_KEY]
    return pull_algorithm(next(der.parts(key)))


def _is_for_pss_only(certificate: x509.Certificate) -> bool:
    return certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS
