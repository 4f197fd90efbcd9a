"""Keys with the certificates of peers: the serial that a consumer gets is that of a key, which lasts."""

import logging
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Status
from handshaked.handshakes import keyring
from handshaked.handshakes.peer_keys import AUTHENTICATED, PeerKeys
from handshaked.testing.authority import Authority
from tests.patience import PATIENCE, run_program

UID = 54321
AS_ORDINARY_USER = f"""
import ctypes, os, sys
from handshaked.handshakes.peer_keys import PeerKeys
ctypes.CDLL(None).syscall(ctypes.c_long(250), 1, None)  # keyctl(2), KEYCTL_JOIN_SESSION_KEYRING
os.setgroups([])
os.setresgid({UID}, {UID}, {UID})
os.setresuid({UID}, {UID}, {UID})
certificate = sys.stdin.buffer.read()
print(*(PeerKeys().serial("peer.example.com", certificate) for _ in range(2)))
"""


@pytest.fixture
def certificate(authority: Authority) -> bytes:
    """A peer's certificate, which no other test uses."""
    return authority.issue("peer.example.com", file_name="peer-key").leaf.public_bytes(Encoding.DER)


def expiry(serial: int, *launcher: str) -> str:
    """Return the time left of a key, as /proc/keys shows it to `launcher`; KeyError if the key is not there."""
    lines = run_program(*launcher, "cat", "/proc/keys").stdout.splitlines()
    return {int(line.split()[0], 16): line.split()[3] for line in lines}[serial]


@pytest.mark.needs("keyrings")
def test_serial_is_that_of_a_key_with_the_certificate(certificate: bytes) -> None:
    serial = PeerKeys().serial("peer.example.com", certificate)
    kind, description = keyring.describe_key(serial)
    assert (kind, description[:26]) == ("asymmetric", b"TLS x509 peer.example.com ")
    assert expiry(serial) in ("1d", "23h")


@pytest.mark.needs("keyrings")
def test_same_certificate_keeps_its_key(certificate: bytes, authority: Authority) -> None:
    """The kernel would replace a key with the same description, and the first consumer's serial would be lost."""
    first, second = PeerKeys(), PeerKeys()  # two workers
    serial = first.serial("peer.example.com", certificate)
    assert second.serial("peer.example.com", certificate) == serial
    other = authority.issue("peer.example.com", file_name="peer-key-other").leaf.public_bytes(Encoding.DER)
    assert first.serial("peer.example.com", other) not in (serial, AUTHENTICATED)
    assert keyring.describe_key(serial)[0] == "asymmetric"


@pytest.mark.needs("keyrings", "root", "x86-64", "setpriv")
def test_ordinary_user_with_a_private_session_keyring_gets_a_serial(certificate: bytes) -> None:
    """As in handshaked.service (KeyringMode=private), which does not possess the keys in the keyring of its uid."""
    process = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER], input=certificate, capture_output=True, check=True, timeout=PATIENCE
    )
    serial, again = map(int, process.stdout.split())
    assert serial != AUTHENTICATED, process.stderr
    assert again == serial
    another_session = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    assert expiry(serial, *another_session) in ("1d", "23h")


@pytest.mark.needs("keyrings")
def test_kernel_without_asymmetric_keys_gets_a_key_of_another_type(
    certificate: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key = keyring.add_key

    def without_asymmetric(kind: str, description: str, payload: bytes, place: int) -> int:
        if kind == "asymmetric":
            raise OSError(Status.NO_DEVICE, "No such device")
        return add_key(kind, description, payload, place)

    monkeypatch.setattr(keyring, "add_key", without_asymmetric)
    serials = [PeerKeys().serial("elsewhere.example.com", certificate) for _ in range(2)]
    assert serials == serials[:1] * 2
    assert keyring.describe_key(serials[0])[0] == "user"
    assert keyring.read_key(serials[0]) == certificate


def test_missing_keys_are_said_once_with_the_remedy(
    certificate: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(Status.QUOTA, "Disk quota exceeded")

    keys = PeerKeys()
    monkeypatch.setattr(keyring, "add_key", refuse)
    monkeypatch.setattr(keyring, "search_key", refuse)
    caplog.set_level(logging.WARNING)
    caplog.clear()
    assert [keys.serial("peer.example.com", certificate) for _ in range(3)] == [AUTHENTICATED] * 3
    (record,) = caplog.records
    assert "Disk quota exceeded; raise kernel.keys.maxkeys" in record.getMessage()
