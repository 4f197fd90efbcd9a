"""Keyrings of the running kernel, in a session keyring of the test's own."""

import ctypes
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from handshaked.configuration.handshaked_toml import Configuration, KernelSettings
from handshaked.errors import LocalError, Status
from handshaked.handshakes import keyring
from handshaked.handshakes.kernel_tcp import KernelHandshakes, KernelRun
from handshaked.handshakes.keyring_psks import InvisibleKeyrings, KeyringPsks
from handshaked.handshakes.service import HandshakeService
from handshaked.model import KERNEL, AuthMode, Request, Role
from handshaked.testing.authority import Authority
from tests.registered import Registered

pytestmark = pytest.mark.needs("keyrings")


@pytest.fixture
def named() -> tuple[str, int]:
    """A keyring with a unique name."""
    name = f"handshaked-test-{os.urandom(4).hex()}"
    return name, keyring.add_key("keyring", name, b"", keyring.PROCESS_KEYRING)


def test_key_is_read_and_described() -> None:
    serial = keyring.add_key("user", "who am I; really", b"payload", keyring.PROCESS_KEYRING)
    assert keyring.read_key(serial) == b"payload"
    assert keyring.describe_key(serial) == ("user", b"who am I; really")


def test_large_key_is_read_completely() -> None:
    payload = os.urandom(9000)
    serial = keyring.add_key("user", "large", payload, keyring.PROCESS_KEYRING)
    assert keyring.read_key(serial) == payload


def test_missing_key_is_an_os_error() -> None:
    with pytest.raises(OSError, match="key") as raised:
        keyring.read_key(0x7FFFFFFF)
    assert raised.value.errno == Status.NO_KEY


def test_keyrings_are_found_by_name(named: tuple[str, int]) -> None:
    name, serial = named
    assert keyring.find_keyring(name) == serial
    assert keyring.find_keyring("handshaked-no-such-keyring") is None


def test_kernel_without_key_list_has_no_keyrings(
    named: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keyring, "KEYS", tmp_path / "keys")
    assert keyring.find_keyring(named[0]) is None
    assert keyring.link_keyrings((named[0],)) == []


@pytest.mark.needs("root", "x86-64")  # to give a keyring away; the number of the system call
def test_keyring_of_another_user_is_ignored_with_a_warning(
    named: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    name, serial = named
    numbers = (250, 4, serial, 12345, -1)  # keyctl(2), KEYCTL_CHOWN
    assert ctypes.CDLL(None).syscall(*map(ctypes.c_long, numbers)) == 0
    assert keyring.link_keyrings((name,)) == []
    assert keyring.find_keyring(name) is None
    assert f"keyring {name} of uid 12345" in caplog.text


def test_keyring_is_linked_while_requests_use_it() -> None:
    # Not made in the user keyring: once a test has linked to the session keyring, which the kernel makes anew for that,
    # this process possesses only what is in its process keyring.
    outer = keyring.add_key("keyring", f"outer-{os.urandom(4).hex()}", b"", keyring.PROCESS_KEYRING)
    inner = keyring.add_key("keyring", f"inner-{os.urandom(4).hex()}", b"", outer)
    keyring.add_key("user", "inside", b"secret", inner)
    for serial in (inner, outer):
        keyring.permit_owner(serial)
    keyring.link_key(outer, keyring.USER_KEYRING)
    keyring.unlink_key(outer, keyring.PROCESS_KEYRING)
    requests = keyring.RequestKeyrings()

    def reachable() -> bool:
        try:
            return bool(keyring.search_key(keyring.PROCESS_KEYRING, "user", b"inside"))
        except OSError:
            return False

    assert not reachable()
    requests.use(inner)
    requests.use(inner)
    assert reachable()
    requests.release(inner)
    assert reachable(), "another request still uses it"
    requests.release(inner)
    assert not reachable()
    keyring.expire_key(outer, 1)


def test_client_uses_the_first_readable_key() -> None:
    serial = keyring.add_key("user", "NVMe1R02 host subsystem digest", b"k" * 48, keyring.PROCESS_KEYRING)
    psks = KeyringPsks((0x7FFFFFFF, serial), ())
    psk = psks.own()
    assert (psk.identity, psk.key, psk.hash_name) == (b"NVMe1R02 host subsystem digest", b"k" * 48, "sha384")
    assert psks.serial(psk.identity) == serial
    with pytest.raises(LocalError, match="cannot be read") as raised:
        KeyringPsks((0x7FFFFFFF,), ()).own()
    assert raised.value.status == Status.NO_KEY


def test_server_finds_keys_only_in_psk_keyrings(named: tuple[str, int]) -> None:
    name, serial = named
    key = keyring.add_key("user", "a psk", b"s" * 32, serial)
    assert KeyringPsks((), ()).find(b"a psk") is None, "a user key elsewhere may be anything"
    psks = KeyringPsks((), (name,))
    psk = psks.find(b"a psk")
    assert psk is not None
    assert (psk.key, psk.hash_name, psks.serial(b"a psk")) == (b"s" * 32, "sha256", key)
    assert psks.find(b"another") is None
    assert psks.find(b"a psk\0with more") is None


def test_server_with_serials_uses_no_other_key(named: tuple[str, int]) -> None:
    name, serial = named
    wanted = keyring.add_key("user", "wanted", b"1" * 32, serial)
    keyring.add_key("user", "unwanted", b"2" * 32, serial)
    psks = KeyringPsks((wanted,), (name,))
    assert psks.find(b"unwanted") is None
    assert psks.find(b"wanted") is not None


def linked_to_the_session() -> tuple[int, ...]:
    payload = keyring.read_key(keyring.SESSION_KEYRING)
    return struct.unpack(f"={len(payload) // 4}i", payload)


@pytest.mark.parametrize(
    "asking",
    [{"auth_mode": AuthMode.PSK, "identity_keys": (1,)}, {"auth_mode": AuthMode.X509, "certificate_keys": ((1, 1),)}],
)
def test_keyring_created_later_is_linked_when_a_request_needs_keys(authority: Authority, asking: dict) -> None:
    name = f"handshaked-late-{os.urandom(4).hex()}"
    registered = Registered(authority)
    service = HandshakeService(registered.snapshot, registered, lambda *_: None)
    handshakes = KernelHandshakes(
        service, Configuration(kernel=KernelSettings(keyrings=(name,))), lambda sock, records: None
    )
    late = keyring.add_key("keyring", name, b"", keyring.PROCESS_KEYRING)
    needs_none = Request(role=Role.CLIENT, caller=KERNEL, timeout=1.0, auth_mode=AuthMode.UNAUTH)
    KernelRun(handshakes, service, needs_none).prepare(needs_none)
    assert late not in linked_to_the_session()
    needs_keys = replace(needs_none, **asking)
    KernelRun(handshakes, service, needs_keys).prepare(needs_keys)
    assert late in linked_to_the_session()


def test_keyrings_of_root_are_missed_once_by_an_ordinary_user(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    invisible = InvisibleKeyrings()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    invisible.warn([])  # as root the consumer's module is not loaded yet
    monkeypatch.setattr(os, "geteuid", lambda: 998)
    invisible.warn([".nvme"])
    assert not caplog.records
    invisible.warn(["of-the-host"])
    invisible.warn(["of-the-host"])
    (record,) = caplog.records
    words = record.getMessage()
    assert ".nvme" in words
    assert "uid 998" in words
    assert "User=root" in words


@pytest.mark.parametrize(("uid", "remedy"), [(0, "keyrings below [kernel]"), (998, "run the service as root")])
def test_unreadable_key_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch, uid: int, remedy: str) -> None:
    def refuse(serial: int) -> tuple[str, bytes]:
        raise OSError(Status.REFUSED, "Permission denied")

    monkeypatch.setattr(keyring, "describe_key", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(LocalError, match=f"key 7 cannot be read: Permission denied; .*{re.escape(remedy)}"):
        KeyringPsks((7,), ()).own()
