"""The keys and limits set in the kernel's TLS, byte for byte as in include/uapi/linux/tls.h."""

import socket
import struct

import pytest

from handshaked.datapath import ktls
from handshaked.datapath.ktls import Capabilities, capabilities, offload, push_crypto_info
from handshaked.errors import LocalError, Status
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.tls.protection import RecordState
from handshaked.tls.record import RecordLayer

IV = bytes(range(0xA0, 0xAC))


@pytest.mark.parametrize(
    ("suite", "number", "key_length", "salt_length"),
    [
        (CipherSuite.AES_128_GCM_SHA256, 51, 16, 4),
        (CipherSuite.AES_256_GCM_SHA384, 52, 32, 4),
        (CipherSuite.AES_128_CCM_SHA256, 53, 16, 4),
        (CipherSuite.CHACHA20_POLY1305_SHA256, 54, 32, 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_crypto_info_matches_the_uapi_layout(
    suite: CipherSuite, number: int, key_length: int, salt_length: int
) -> None:
    key = bytes(range(key_length))
    info = push_crypto_info(RecordState(suite, key, IV, 7))
    version_and_cipher = (0x0304).to_bytes(2, "little") + number.to_bytes(2, "little")
    assert info == version_and_cipher + IV[salt_length:] + key + IV[:salt_length] + bytes(7) + b"\x07"
    assert len(info) == {51: 40, 52: 56, 53: 40, 54: 56}[number]


def test_bytes_read_after_the_handshake_are_an_error() -> None:
    records = RecordLayer(Role.SERVER)
    records.receive(b"\x17\x03\x03")
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(LocalError, match="3 bytes were read after"):
        offload(ours, records)


class Recorder:
    """A socket that only records its options: not every kernel has TLS."""

    def __init__(self, *, limits: bool) -> None:
        self.options: list[tuple[int, int, bytes]] = []
        self._limits = limits

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """See ``socket.socket``."""
        if (level, option) == (282, 5) and not self._limits:
            raise OSError(Status.NO_OPTION, "Protocol not available")
        self.options.append((level, option, value))

    @property
    def limit(self) -> list[int]:
        """The record size limits that were set after the keys of both directions."""
        assert [(level, option) for level, option, _ in self.options[:3]] == [(6, 31), (282, 1), (282, 2)]
        assert {(level, option) for level, option, _ in self.options[3:]} <= {(282, 5)}
        return [struct.unpack("=H", value)[0] for _, _, value in self.options[3:]]


def offloaded(*, limits: bool) -> list[int]:
    """Return the limits set for a peer that accepts records of 600 bytes, by a kernel with or without `limits`."""
    records = RecordLayer(Role.SERVER)
    for direction in Direction:
        records.install(TrafficSecret(Level.APPLICATION, direction, CipherSuite.AES_128_GCM_SHA256, bytes(32)))
    records.limit_sent(600)
    sock = Recorder(limits=limits)
    offload(sock, records)
    return sock.limit


@pytest.mark.parametrize("limits", [True, False])
def test_record_size_limit_is_set_if_the_kernel_supports_it(monkeypatch: pytest.MonkeyPatch, limits: bool) -> None:
    found = Capabilities(tuple(CipherSuite), limits)
    monkeypatch.setattr(ktls, "capabilities", lambda: found)
    assert offloaded(limits=limits) == ([599] if limits else [])


@pytest.mark.parametrize("limits", [True, False])
def test_first_connection_shows_whether_records_can_be_limited(monkeypatch: pytest.MonkeyPatch, limits: bool) -> None:
    found = Capabilities(tuple(CipherSuite), limits=None)
    monkeypatch.setattr(ktls, "capabilities", lambda: found)
    assert offloaded(limits=limits) == ([2**14] if limits else []), "no limit was agreed on yet"
    assert found.limits is limits
    assert offloaded(limits=limits) == ([599] if limits else [])


def test_capabilities_are_probed_or_assumed() -> None:
    suites = capabilities().suites
    assert CipherSuite.AES_128_GCM_SHA256 in suites
    assert set(suites) <= set(CipherSuite)
