"""What a caller brings along is the caller's own affair, and costs others no time."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from handshaked.brought import Brought, Files
from handshaked.errors import HandshakeError
from handshaked.model import KeyType
from handshaked.testing.authority import Authority


def read(certificate: Path, key: Path) -> Brought | HandshakeError:
    """What a daemon has of the files."""
    descriptors = [os.open(path, os.O_RDONLY) for path in (certificate, key)]
    told: list[Brought | HandshakeError] = []
    try:
        files = Files(*descriptors)
        files.when_read(told.append)
        files.read()
        files.tell()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return told[0]


def test_to_examine_a_large_rsa_key_kept_the_worker_from_others(tmp_path: Path) -> None:
    """A genuine one of 8192 bits takes seconds; that a damaged one is taken shows that none is examined."""
    issued = Authority(tmp_path).issue("rsa.example.com", key_type=KeyType.RSA)
    key = load_pem_private_key(issued.key.read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    numbers = key.private_numbers()
    damaged = RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    issued.key.write_bytes(damaged.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    brought = read(issued.certificate, issued.key)
    assert isinstance(brought, Brought), brought
    assert brought.credential is not None
