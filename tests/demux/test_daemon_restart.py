"""A demultiplexer whose daemon stops and starts again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handshaked.errors import Alert, QuicError
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from tests.demux.clients import Target, refusal, served
from tests.demux.conftest import DAEMON_OPTIONS, FIRST_USER
from tests.handshake_channel import eventually


@pytest.fixture
def demux_daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon for one test, which stops it."""
    with RunningDaemon(public_directory, options=DAEMON_OPTIONS) as daemon:
        yield daemon


def test_connections_are_dispatched_while_the_daemon_is_down(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    target = Target(demux.port, authority.root)
    register("smb", "smb.example.com", "smb", user=FIRST_USER)
    demux_daemon.stop()
    assert refusal(target, "smb.example.com", "smb") == QuicError.CONNECTION_REFUSED
    assert refusal(target, "other.example.com", "smb") == Alert.UNRECOGNIZED_NAME.quic_error
    demux_daemon.start()
    register("other", "other.example.com", "smb", user=FIRST_USER)
    assert eventually(lambda: demux.metrics()["registrations"] == 2)  # it reconnects to the daemon within a second
    with smb_server(demux_daemon, demux, "other", user=FIRST_USER):
        assert served(target, "other.example.com", "smb")[0] == "other"
