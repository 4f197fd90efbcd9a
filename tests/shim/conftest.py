"""Registrations that the tests of the client library share, and a daemon that does not answer."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.patience import PATIENCE

QUIC_NAME = "quic.example.com"
CLIENT_NAME = "client.example.com"


@pytest.fixture(scope="session")
def path(
    shared_daemon: RunningDaemon, issue: Issue, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The handshake socket of a daemon with the registrations "quic", "client", and "large" (a chain of 10)."""
    for registration, name, alpns in (("quic", QUIC_NAME, ["h3", "hq"]), ("client", CLIENT_NAME, ["h3"])):
        issued = issue(name)
        shared_daemon.register(registration, (issued.certificate, issued.key), alpns=alpns, server_names=[name])
    chain = tmp_path_factory.mktemp("chain") / "large.pem"
    large = issue("large.example.com")
    chain.write_bytes(large.certificate.read_bytes() + 9 * authority.root.read_bytes())
    shared_daemon.register("large", (chain, large.key), alpns=["h3"], server_names=["large.example.com"])
    return shared_daemon.handshake_socket


@pytest.fixture
def silent_daemon(tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket that sends only what the test sends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        listener.settimeout(PATIENCE)
        yield listener
