"""Sign with a private key in this process: the one implementation of ``model.Signer``.

The engine does not import this module: whoever opens a credential chooses its signer.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from handshaked.errors import LocalError
from handshaked.model import SignatureScheme
from handshaked.tls.signatures import ECDSA_SCHEMES, RSA_SCHEMES, signed_content

_WITHOUT_PARAMETERS = (
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)


@dataclass(frozen=True, slots=True)
class PrivateKeySigner:
    """Signs with `private_key`, which is not part of the repr."""

    private_key: PrivateKeyTypes = field(repr=False)

    def sign(self, scheme: SignatureScheme, transcript_hash: bytes, *, by_server: bool) -> bytes:
        """As in Signer."""
        key = self.private_key
        content = signed_content(transcript_hash, by_server=by_server)
        try:
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key.sign(content, ECDSA_SCHEMES[scheme])
            if isinstance(key, rsa.RSAPrivateKey):
                return key.sign(content, *RSA_SCHEMES[scheme])
            if isinstance(key, _WITHOUT_PARAMETERS):
                return key.sign(content)
        except (KeyError, ValueError, UnsupportedAlgorithm):
            raise LocalError(f"the credential's key cannot sign with {scheme.name.lower()}") from None
        raise LocalError("the credential's key type has no signature scheme in TLS 1.3")
