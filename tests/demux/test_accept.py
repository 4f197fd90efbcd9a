"""Applications of several users on one port, each with the connections of its registration."""

from collections.abc import Callable

import pytest

from handshaked.errors import Alert
from handshaked.quic.answers import CONNECTION_REFUSED
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from tests.demux.clients import Target, refusal, served
from tests.demux.conftest import FIRST_USER, SECOND_USER


@pytest.fixture
def target(demux: RunningDemux, authority: Authority) -> Target:
    """Where clients go."""
    return Target(demux.port, authority.root)


@pytest.mark.usefixtures("as_root")
def test_two_servers_of_two_users_share_a_port(
    demux_daemon: RunningDaemon,
    demux: RunningDemux,
    register: Callable[..., None],
    issue: Callable[..., Issued],
    target: Target,
) -> None:
    register("first", "first.example.com", "smb", user=FIRST_USER)
    register("second", "second.example.com", "smb", user=SECOND_USER)
    with (
        smb_server(demux_daemon, demux, "first", user=FIRST_USER),
        smb_server(demux_daemon, demux, "second", user=SECOND_USER),
    ):
        for name in ("first", "second"):
            assert served(target, f"{name}.example.com", "smb") == (name, issue(f"{name}.example.com").leaf)
        assert refusal(target, "third.example.com", "smb") == Alert.UNRECOGNIZED_NAME.quic_error
        assert refusal(target, "first.example.com", "h3") == Alert.NO_APPLICATION_PROTOCOL.quic_error
        assert refusal(target, None, "smb") == Alert.MISSING_EXTENSION.quic_error
