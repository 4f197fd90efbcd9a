"""Credentials of a caller: checked at a bounded cost, as other handshakes of the worker wait meanwhile."""

import base64
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers, RSAPublicNumbers, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import HandshakeError, RefusedError
from handshaked.handshakes.caller_credentials import CallerCredentials, CredentialFiles
from handshaked.registry.credentials import load_pem


def prime() -> int:
    return generate_private_key(65537, 2048).private_numbers().p


def pem(key: RSAPrivateNumbers) -> bytes:
    """Encode an RSAPrivateKey (RFC 8017 section A.1.2), which cryptography does for valid keys only."""
    public = key.public_numbers
    fields = (0, public.n, public.e, key.d, key.p, key.q, key.dmp1, key.dmq1, key.iqmp)
    der = tlv(0x30, b"".join(tlv(2, number.to_bytes(number.bit_length() // 8 + 1)) for number in fields))
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END RSA PRIVATE KEY-----\n"


def tlv(tag: int, content: bytes) -> bytes:
    """Encode tag, length and content, of 64 KiB at most, in DER (ITU-T X.690)."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def read(directory: Path, numbers: RSAPrivateNumbers) -> CallerCredentials | HandshakeError:
    """Return what the daemon reads from a key with these parameters, and a certificate for it."""
    name, now, issuer = x509.Name([]), datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(name, name, numbers.public_numbers.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(now).not_valid_after(now + timedelta(1)).sign(issuer, hashes.SHA256())
    contents = certificate.public_bytes(Encoding.PEM), pem(numbers)
    with pytest.raises(RefusedError):
        load_pem(*contents)  # tests primes
    descriptors = []
    for number, content in enumerate(contents):
        (directory / str(number)).write_bytes(content)
        descriptors.append(os.open(directory / str(number), os.O_RDONLY))
    told: list[CallerCredentials | HandshakeError] = []
    try:
        files = CredentialFiles(*descriptors)
        files.when_read(told.append)
        files.read()
        files.report()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return told[0]


def numbers(p: int, q: int) -> RSAPrivateNumbers:
    d = pow(65537, -1, (p - 1) * (q - 1))
    return RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), RSAPublicNumbers(65537, p * q))


def test_primes_of_an_rsa_key_are_not_tested(tmp_path: Path) -> None:
    """Testing the primes of an 8192-bit key takes seconds. A composite is accepted, so that no prime was tested."""
    brought = read(tmp_path, numbers(prime() * prime(), prime()))
    assert isinstance(brought, CallerCredentials), brought
    assert brought.credential is not None


def test_rsa_key_with_inconsistent_parameters_is_refused(tmp_path: Path) -> None:
    """Its parameters could be of any size, and a signature would take any time."""
    good = numbers(prime(), prime())
    forged = RSAPrivateNumbers(
        good.p << 4096 | 1, good.q << 4096 | 1, good.d, good.dmp1, good.dmq1, good.iqmp, good.public_numbers
    )
    refused = read(tmp_path, forged)
    assert isinstance(refused, HandshakeError)
    assert "inconsistent RSA key parameters" in refused.reason
