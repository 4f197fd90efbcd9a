"""Access of a consumer in the kernel to the key whose serial it gets for its peer."""

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from handshaked.handshakes import keyring


def key_describes(serial: int, leaf: Certificate) -> bool:
    """Return whether `serial` is that of a key with the certificate `leaf`; OSError if there is no such key."""
    kind, description = keyring.describe_key(serial)
    digest = hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()[:32]
    return kind == "asymmetric" and description.endswith(digest.encode())
