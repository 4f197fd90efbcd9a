"""Signatures of CertificateVerify (RFC 8446 section 4.4.3)."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from handshaked.errors import Alert, LocalError, PeerError, UnsupportedKeyError
from handshaked.model import KeyType, SignatureScheme
from handshaked.tls.x509.keys import key_type_of

SUPPORTED_SCHEMES = (
    SignatureScheme.ECDSA_SECP256R1_SHA256,
    SignatureScheme.ED25519,
    SignatureScheme.ECDSA_SECP384R1_SHA384,
    SignatureScheme.ECDSA_SECP521R1_SHA512,
    SignatureScheme.ED448,
    SignatureScheme.RSA_PSS_RSAE_SHA256,
    SignatureScheme.RSA_PSS_RSAE_SHA384,
    SignatureScheme.RSA_PSS_RSAE_SHA512,
    SignatureScheme.RSA_PSS_PSS_SHA256,
    SignatureScheme.RSA_PSS_PSS_SHA384,
    SignatureScheme.RSA_PSS_PSS_SHA512,
    SignatureScheme.MLDSA44,
    SignatureScheme.MLDSA65,
    SignatureScheme.MLDSA87,
)
"""The schemes that can be verified, in the order in which they are offered."""

CERTIFICATE_SCHEMES = (*SUPPORTED_SCHEMES, 0x0401, 0x0501, 0x0601)
"""The schemes accepted in certificates: also RSASSA-PKCS1-v1_5, which TLS 1.3 allows nowhere else."""

_SERVER_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
_CLIENT_CONTEXT = b" " * 64 + b"TLS 1.3, client CertificateVerify\0"

ECDSA_SCHEMES = {
    SignatureScheme.ECDSA_SECP256R1_SHA256: ec.ECDSA(SHA256()),
    SignatureScheme.ECDSA_SECP384R1_SHA384: ec.ECDSA(SHA384()),
    SignatureScheme.ECDSA_SECP521R1_SHA512: ec.ECDSA(SHA512()),
}


def _pss(algorithm: HashAlgorithm) -> tuple[padding.PSS, HashAlgorithm]:
    # "The length of the Salt MUST be equal to the length of the output of the digest algorithm."
    return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm


RSA_SCHEMES = {
    SignatureScheme.RSA_PSS_RSAE_SHA256: _pss(SHA256()),
    SignatureScheme.RSA_PSS_RSAE_SHA384: _pss(SHA384()),
    SignatureScheme.RSA_PSS_RSAE_SHA512: _pss(SHA512()),
    SignatureScheme.RSA_PSS_PSS_SHA256: _pss(SHA256()),
    SignatureScheme.RSA_PSS_PSS_SHA384: _pss(SHA384()),
    SignatureScheme.RSA_PSS_PSS_SHA512: _pss(SHA512()),
}
_KEYS_WITHOUT_PARAMETERS = (
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)


def choose_scheme(key_type: KeyType, offered: Iterable[int]) -> SignatureScheme | None:
    """Return the best scheme of the key type that the peer has `offered`, or None."""
    return next((scheme for scheme in key_type.schemes if scheme in offered), None)


def signed_content(transcript_hash: bytes, *, by_server: bool) -> bytes:
    """Return what a CertificateVerify signs."""
    return (_SERVER_CONTEXT if by_server else _CLIENT_CONTEXT) + transcript_hash


def verify(certificate: x509.Certificate, scheme: int, signature: bytes, content: bytes) -> None:
    """Check the `signature` of a peer over `content`. PeerError if it is invalid or its scheme does not fit the key."""
    try:
        fitting = key_type_of(certificate).schemes
    except UnsupportedKeyError as error:
        raise PeerError(Alert.UNSUPPORTED_CERTIFICATE, f"the certificate's key cannot be used: {error}") from None
    if scheme not in fitting:
        # Section 4.4.3: it must be one offered, and fit the key; otherwise illegal_parameter.
        raise PeerError(Alert.ILLEGAL_PARAMETER, f"signature scheme {scheme:#06x} does not fit the certificate's key")
    key = certificate.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ECDSA_SCHEMES[SignatureScheme(scheme)])
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, *RSA_SCHEMES[SignatureScheme(scheme)])
        elif isinstance(key, _KEYS_WITHOUT_PARAMETERS):
            key.verify(signature, content)
        else:
            raise LocalError("a key type has a signature scheme but no verification")
    except (InvalidSignature, ValueError):
        # Section 4.4.3: "If the verification fails, the receiver MUST terminate the handshake with decrypt_error"
        raise PeerError(Alert.DECRYPT_ERROR, "invalid signature in CertificateVerify") from None
    except UnsupportedAlgorithm:
        raise PeerError(Alert.UNSUPPORTED_CERTIFICATE, "the certificate's key is not supported") from None
