"""Private keys in PKCS#8 version 2 (RFC 5958) are read, encrypted or not, for every algorithm that has them."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, x448, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from handshaked.errors import UnreadableError
from handshaked.tls.x509 import der
from handshaked.tls.x509.readers import read_der_private_key, read_private_key

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
    "x448": x448.X448PrivateKey.generate(),
}
SALT, VECTOR, PASSPHRASE = b"saltsalt", bytes(range(16)), b"p\xe9ss"
HMACS = {
    "sha1": "2a864886f70d0207",
    "sha256": "2a864886f70d0209",
    "sha384": "2a864886f70d020a",
    "sha512": "2a864886f70d020b",
}
CIPHERS = {16: "608648016503040102", 24: "608648016503040116", 32: "60864801650304012a"}


def sequence(*parts: bytes) -> bytes:
    return der.push_sequence(b"".join(parts))


def element(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + der.push_sequence(content)[1:]


def oid(text: str) -> bytes:
    return element(6, bytes.fromhex(text))


def version_1(private) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def version_2(private) -> bytes:
    one = version_1(private)
    public = element(0x81, b"\0" + private.public_key().public_bytes_raw())
    return sequence(b"\x02\x01\x01", one[der.pull_element(one).begin + 3 :], element(0xA0, b""), public)


def encrypted(inner: bytes, size: int, key: bytes, derivation: bytes) -> bytes:
    filled = inner + bytes([16 - len(inner) % 16]) * (16 - len(inner) % 16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(VECTOR)).encryptor()
    content = encryptor.update(filled) + encryptor.finalize()
    cipher = sequence(oid(CIPHERS[size]), element(4, VECTOR))
    scheme = sequence(oid("2a864886f70d01050d"), sequence(derivation, cipher))
    return sequence(scheme, element(4, content))


def with_pbkdf2(inner: bytes, size: int = 32, digest: str = "sha256", *, with_size: bool = False) -> bytes:
    key = hashlib.pbkdf2_hmac(digest, PASSPHRASE, SALT, 1000, size)
    function = b"" if digest == "sha1" else sequence(oid(HMACS[digest]), b"\x05\0")
    length = element(2, bytes([size])) if with_size else b""
    parameters = sequence(element(4, SALT), element(2, (1000).to_bytes(2)), length, function)
    return encrypted(inner, size, key, sequence(oid("2a864886f70d01050c"), parameters))


def with_scrypt(inner: bytes, *, cost: int = 1024) -> bytes:
    key = hashlib.scrypt(PASSPHRASE, salt=SALT, n=1024, r=8, p=1, dklen=32)
    number = element(2, cost.to_bytes(cost.bit_length() // 8 + 1))
    parameters = sequence(element(4, SALT), number, element(2, b"\x08"), element(2, b"\x01"))
    return encrypted(inner, 32, key, sequence(oid("2b06010401da47040b"), parameters))


def pem(label: str, encoded: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), base64.encodebytes(encoded), label.encode())


ENCRYPTIONS = {
    "pbkdf2": with_pbkdf2,
    "pbkdf2-default-prf": lambda inner: with_pbkdf2(inner, digest="sha1"),
    "pbkdf2-sha384-aes192": lambda inner: with_pbkdf2(inner, 24, "sha384", with_size=True),
    "pbkdf2-sha512-aes128": lambda inner: with_pbkdf2(inner, 16, "sha512", with_size=True),
    "scrypt": with_scrypt,
}


def public(private) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_version_2_are_read(kind: str) -> None:
    encoded = version_2(KEYS[kind])
    assert public(read_der_private_key(encoded, "file")) == public(KEYS[kind])
    assert public(read_private_key(pem("PRIVATE KEY", encoded), None, "file")) == public(KEYS[kind])


@pytest.mark.parametrize("version", [version_1, version_2])
@pytest.mark.parametrize("encryption", ENCRYPTIONS)
@pytest.mark.parametrize("kind", KEYS)
def test_encrypted_keys_of_both_versions_are_read(kind: str, encryption: str, version) -> None:
    content = pem("ENCRYPTED PRIVATE KEY", ENCRYPTIONS[encryption](version(KEYS[kind])))
    assert public(read_private_key(content, PASSPHRASE, "file")) == public(KEYS[kind])


@pytest.mark.parametrize("version", [version_1, version_2])
def test_the_passphrase_has_to_be_right(version) -> None:
    content = pem("ENCRYPTED PRIVATE KEY", with_pbkdf2(version(KEYS["ed25519"])))
    with pytest.raises(UnreadableError, match="or the passphrase is wrong"):
        read_private_key(content, b"wrong", "file")
    with pytest.raises(UnreadableError, match="is encrypted: give its passphrase file"):
        read_private_key(content, None, "file")


@pytest.mark.parametrize("cost", [1 << 40, 1 << 62, 1 << 70])
def test_memory_for_scrypt_is_bounded(cost: int) -> None:
    encoded = with_scrypt(version_2(KEYS["ed25519"]), cost=cost)
    with pytest.raises(UnreadableError, match="no readable private key"):
        read_private_key(pem("ENCRYPTED PRIVATE KEY", encoded), PASSPHRASE, "file")


@pytest.mark.parametrize("damaged", ["2a864886f70d01050d", "2a864886f70d01050c", CIPHERS[32], HMACS["sha256"]])
def test_unknown_encryption_is_refused(damaged: str) -> None:
    old = bytes.fromhex(damaged)
    encoded = with_pbkdf2(version_2(KEYS["ed25519"])).replace(old, old[:-1] + b"\x7e")
    with pytest.raises(UnreadableError, match="no readable private key"):
        read_private_key(pem("ENCRYPTED PRIVATE KEY", encoded), PASSPHRASE, "file")
