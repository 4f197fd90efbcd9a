"""Credentials of ordinary users are loaded in a sandbox: with the same result, at a bounded cost."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from handshaked.control.requests.loading import load, pull_passphrase
from handshaked.control.requests.loading_sandbox import load_in_sandbox
from handshaked.errors import RefusedError
from handshaked.model import KeyType
from handshaked.registry.store import Source
from tests.conftest import Issue
from tests.expensive_keys import encrypted_key
from tests.with_capabilities import run_with_capabilities

LOADING = """
import subprocess
from handshaked.control.requests.loading_sandbox import load_in_sandbox
from handshaked.errors import RefusedError
from handshaked.registry.store import Source
def passed_on():
    return subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
before = passed_on()
try:
    load_in_sandbox(Source("cert.pem", "key.pem", "passphrase"), (b"", b"", b"x"))
except RefusedError:
    print(int(before.split()[1], 16), before == passed_on())
"""
SOURCE = Source("cert.pem", "key.pem", "passphrase")


@pytest.mark.parametrize("key_type", [KeyType.RSA, KeyType.ECDSA_P256])
def test_credential_loaded_in_the_sandbox_is_the_same(issue: Issue, key_type: KeyType) -> None:
    issued = issue("a.example.com", key_type=key_type)
    key = load_pem_private_key(issued.key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    contents = (issued.certificate.read_bytes(), key, b"x\n")
    assert dataclasses.asdict(load_in_sandbox(SOURCE, contents)) == dataclasses.asdict(load(SOURCE, contents))


@pytest.mark.parametrize("content", [b"x", b"x\n", b"x\r\n", b"\xef\xbb\xbfx\r\n"])
def test_passphrase_files_are_read_as_other_systems_write_them(content: bytes) -> None:
    assert pull_passphrase(content) == b"x"


def test_sandbox_reports_what_is_wrong(issue: Issue) -> None:
    certificate = issue("a.example.com").certificate.read_bytes()
    with pytest.raises(RefusedError, match=r"^key.pem: no readable private key"):
        load_in_sandbox(SOURCE, (certificate, b"", b"x"))


def test_key_that_takes_minutes_to_decrypt_is_refused(issue: Issue) -> None:
    contents = (issue("a.example.com").certificate.read_bytes(), encrypted_key((1 << 31) - 1), b"x")
    with pytest.raises(RefusedError, match=r"^key.pem: takes more than .* to decrypt.*fewer iterations"):
        load_in_sandbox(SOURCE, contents)


@pytest.mark.needs("root", "setpriv", "public python")
def test_thread_that_has_loaded_a_credential_has_the_same_capabilities() -> None:
    """Threads are reused."""
    assert run_with_capabilities(LOADING).split() == [str(1 << 12 | 1 << 2), "True"]
