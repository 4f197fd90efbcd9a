"""A shared daemon with the registration ``unix``, and connections to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.model import KeyType
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.messages import FAMILY, Command, StartAttribute
from handshaked.wire.netlink import push_message, push_u32
from tests.conftest import Issue
from tests.handshake_channel import HandshakeChannel
from tests.registered import Registered

NAME = "unix.example.com"
MALFORMED = push_message(FAMILY, 7, Command.START, push_u32(StartAttribute.MESSAGE_TYPE, 9))


@pytest.fixture(scope="module")
def registered(authority: Authority, issue: Issue) -> Registered:
    made = Registered(authority)
    made.add("unix", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,), alpns=(b"h3", b"smb"))
    return made


@pytest.fixture(scope="module")
def socket_path(shared_daemon: RunningDaemon, issue: Issue) -> Iterator[Path]:
    issued = issue(NAME)
    shared_daemon.register("unix", (issued.certificate, issued.key), alpns=["h3", "smb"], server_names=[NAME])
    yield shared_daemon.handshake_socket
    shared_daemon.ask("unregister", name="unix")


@pytest.fixture
def channel(socket_path: Path) -> Iterator[HandshakeChannel]:
    with HandshakeChannel(socket_path) as opened:
        yield opened
