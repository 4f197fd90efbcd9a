"""The service under systemd as PID 1, in a kernel of its own."""

import pytest

from tests.kernel.lab import boot
from tests.quic.initials import client_hello, crypto, initial

SEEN = (
    "socket activation", "fields in the journal", "reload", "the bus", "a restart after SIGKILL",
    "the watchdog's restart", "the restart of a stopped daemon", "a clock that was wrong", "metrics", "stop", "removal",
)  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("root"),
]


def test_service_life_cycle_under_systemd() -> None:
    result = boot("systemd_life", systemd=True)
    assert result.status == 0, result.output
    for what in SEEN:
        assert f"seen: {what}" in result.output


def test_drop_in_allows_network_namespaces_and_keyrings_of_root() -> None:
    result = boot("systemd_kernel", systemd=True)
    assert result.status == 0, result.output


def test_daemon_is_ready_before_remote_file_systems_of_fstab_are_mounted() -> None:
    result = boot("fstab", prepare="fstab_prepare")
    assert result.status == 0, result.output


def test_demultiplexer_forwards_without_capability_and_network() -> None:
    datagram = initial(crypto(0, client_hello("web.example.com", ["h3"])))
    result = boot("systemd_demux", datagram.hex(), systemd=True)
    assert result.status == 0, result.output
