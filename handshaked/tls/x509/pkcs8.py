"""Private keys in PKCS#8 that `cryptography` does not read: version 2 (RFC 5958), with the public key in it.

RFC 8410 section 10.3 has Ed25519 keys in this form. They are converted to version 1 (RFC 5208). If they are encrypted
(PBES2, RFC 8018 section 6.2), they have to be decrypted first, as the version is inside.
"""

from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from handshaked.tls.x509.der import INTEGER, SEQUENCE, Element, elements, encodings, pull_element, push_sequence

_VERSION_1, _VERSION_2 = b"\x02\x01\x00", b"\x02\x01\x01"
_PUBLIC_KEY = 0x81
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_HMAC_SHA1 = bytes.fromhex("2a864886f70d0207")
_DIGESTS: dict[bytes, type[hashes.HashAlgorithm]] = {
    _HMAC_SHA1: hashes.SHA1,
    bytes.fromhex("2a864886f70d0209"): hashes.SHA256,
    bytes.fromhex("2a864886f70d020a"): hashes.SHA384,
    bytes.fromhex("2a864886f70d020b"): hashes.SHA512,
}
_AES_KEY_BYTES = {
    bytes.fromhex("60864801650304") + last: size
    for last, size in ((b"\x01\x02", 16), (b"\x01\x16", 24), (b"\x01\x2a", 32))
}
_AES_BLOCK_BITS = 128
_MAX_SCRYPT = 1 << 23  # times 128 bytes: a GiB


class _Algorithm(NamedTuple):
    """An AlgorithmIdentifier: the content of its OID, and the elements of its parameters."""

    oid: bytes
    parameters: tuple[Element, ...]


def is_version_2(encoded: bytes) -> bool:
    """Return whether `encoded` is a key of version 2 that is not encrypted."""
    try:
        return next(encodings(encoded, pull_element(encoded)), b"") == _VERSION_2
    except ValueError:
        return False


def as_version_1(encoded: bytes) -> bytes:
    """Return a key of version 2 as version 1, without its public key; any other as it is."""
    if not is_version_2(encoded):
        return encoded
    try:
        kept = [one for one in encodings(encoded, pull_element(encoded)) if one[0] != _PUBLIC_KEY]
    except ValueError:
        return encoded
    return push_sequence(_VERSION_1 + b"".join(kept[1:]))


def decrypt(encoded: bytes, passphrase: bytes) -> bytes:
    """Return the key in an EncryptedPrivateKeyInfo (RFC 5958 section 3).

    ValueError if the passphrase is wrong, or if the encryption is not PBES2 with AES-CBC.
    """
    described, content = elements(encoded, pull_element(encoded))
    scheme = _algorithm(encoded, described)
    if scheme.oid != _PBES2:
        raise ValueError("the encryption is not PBES2")
    derivation, cipher = (_algorithm(encoded, one) for one in scheme.parameters)
    if cipher.oid not in _AES_KEY_BYTES:
        raise ValueError("the cipher is not AES-CBC")
    key = _key_derivation(encoded, derivation, _AES_KEY_BYTES[cipher.oid])(passphrase)
    vector, *_ = cipher.parameters
    opener = Cipher(algorithms.AES(key), modes.CBC(_content(encoded, vector))).decryptor()
    unpadder = padding.PKCS7(_AES_BLOCK_BITS).unpadder()
    return unpadder.update(opener.update(_content(encoded, content)) + opener.finalize()) + unpadder.finalize()


def _key_derivation(data: bytes, algorithm: _Algorithm, size: int) -> Callable[[bytes], bytes]:
    first, *rest = algorithm.parameters
    salt = _content(data, first)
    numbers = [_number(data, one) for one in rest if one.tag == INTEGER]
    if algorithm.oid == _SCRYPT:
        n, r, p, *_ = numbers
        if n * r > _MAX_SCRYPT:
            raise ValueError("scrypt would take too much memory")
        return Scrypt(salt, size, n, r, p).derive
    if algorithm.oid != _PBKDF2:
        raise ValueError("the key derivation is neither PBKDF2 nor scrypt")
    functions = [_algorithm(data, one).oid for one in rest if one.tag == SEQUENCE]
    digest = _DIGESTS.get(functions[0] if functions else _HMAC_SHA1)
    if digest is None:
        raise ValueError("the hash function of PBKDF2 is not supported")
    iterations, *_ = numbers
    return PBKDF2HMAC(digest(), size, salt, iterations).derive


def _algorithm(data: bytes, element: Element) -> _Algorithm:
    oid, *parameters = elements(data, element)
    # A single parameter that is no SEQUENCE, such as an initialization vector, stands for itself.
    inner = tuple(elements(data, parameters[0])) if parameters and parameters[0].tag == SEQUENCE else tuple(parameters)
    return _Algorithm(_content(data, oid), inner)


def _content(data: bytes, element: Element) -> bytes:
    return data[element.begin : element.end]


def _number(data: bytes, element: Element) -> int:
    return int.from_bytes(_content(data, element))
