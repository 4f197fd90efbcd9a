"""Attached files on a blocking file server: only their own handshake waits for them."""

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handshaked.callers.account import Limits
from handshaked.datapath.emulated import emulated_quic_socket
from handshaked.errors import RefusedError
from handshaked.handshakes import caller_credentials
from handshaked.handshakes.service import HandshakeService
from handshaked.model import KeyType, Outcome, Role
from handshaked.shim import HandshakeRefusedError, QuicSocketOptions, quic_server_handshake
from handshaked.testing.authority import Authority
from handshaked.wire.family import push_start
from handshaked.wire.messages import Acknowledged, Start
from tests.conftest import Issue
from tests.handshake_channel import (
    GoneError,
    HandshakeChannel,
    client_start,
    eventually,
    served,
    server_start,
    shake_hands,
)
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    descriptors_of,
    in_thread,
)
from tests.registered import Registered

NAME = "quic.example.com"


class Stall:
    """Blocks reading of callers' files until ``go_on`` is set."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def read_file(self, *_: object, **__: object) -> bytes:
        self.reached.set()
        assert self.go_on.wait(3 * PATIENCE)
        raise RefusedError("it has been waited for in vain")


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stall]:
    made = Stall()
    monkeypatch.setattr(caller_credentials, "read_file", made.read_file)
    yield made
    made.go_on.set()


@pytest.fixture
def path(public_directory: Path) -> Path:
    return public_directory / "handshake.sock"


@pytest.fixture
def service(authority: Authority, issue: Issue, path: Path) -> Iterator[HandshakeService]:
    registered = Registered(authority)
    registered.add("web", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,))
    with served(registered, path, Limits(), emulated_quic_socket) as service:
        yield service


@pytest.fixture
def psk(tmp_path: Path) -> Path:
    psk = tmp_path / "psk"
    psk.write_text(f"someone:{'5a' * 32}\n")
    return psk


def failure(handshake: Callable[[], Outcome]) -> Outcome:
    with pytest.raises(HandshakeRefusedError) as raised:
        handshake()
    return raised.value.outcome


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a socket pair in place of a QUIC socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(PATIENCE)
    with ours, theirs:
        yield ours, theirs


def test_blocking_file_delays_only_its_own_handshake(
    service: HandshakeService, path: Path, stall: Stall, psk: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    options = QuicSocketOptions(path=path, psk=psk, timeout=0.5)
    waiting = in_thread(lambda: failure(lambda: quic_server_handshake(pair[0], options=options)))
    assert stall.reached.wait(PATIENCE)
    with HandshakeChannel(path) as channel:
        outcomes = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert waiting.result(PATIENCE).status == errno.ETIMEDOUT
    assert service.in_flight == 0


def test_nothing_is_left_of_a_blocking_file(
    service: HandshakeService, path: Path, stall: Stall, psk: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    with HandshakeChannel(path) as channel:
        with psk.open() as file, ours:
            start = Start(Role.CLIENT, server_name=NAME, timeout=0.2, socket=True, psk_file=True)
            channel.send(push_start(1, start), descriptors=(ours.fileno(), file.fileno()))
        assert channel.outcome(1).status == errno.ETIMEDOUT
        assert theirs.recv(1) == b""
        stall.go_on.set()
        # After that, the connection is read again.
        outcomes = shake_hands(channel, 2, 3, client_start(NAME, b"h3"), server_start())
        assert [outcome.status for outcome in outcomes] == [0, 0]
    assert str(psk) not in descriptors_of("self")
    assert service.in_flight == 0


def test_caller_may_disconnect_before_its_file_is_read(
    service: HandshakeService, path: Path, stall: Stall, psk: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    with psk.open() as file, ours, HandshakeChannel(path) as channel:
        start = Start(Role.SERVER, timeout=0.2, socket=True, psk_file=True)
        channel.send(push_start(1, start), descriptors=(ours.fileno(), file.fileno()))
        assert stall.reached.wait(PATIENCE)
    assert theirs.recv(1) == b""
    assert eventually(lambda: service.in_flight == 0)
    stall.go_on.set()
    assert eventually(lambda: str(psk) not in descriptors_of("self"))


def test_error_in_a_file_is_reported(
    service: HandshakeService, path: Path, stall: Stall, psk: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    stall.go_on.set()
    ours, theirs = pair
    seen = failure(lambda: quic_server_handshake(ours, options=QuicSocketOptions(path=path, psk=psk)))
    assert (seen.status, seen.reason) == (errno.ENOKEY, "it has been waited for in vain")
    ours.close()
    assert theirs.recv(1) == b""  # the socket was asked nothing


def test_closed_connection_counts_until_its_file_is_read(
    authority: Authority, path: Path, stall: Stall, psk: Path
) -> None:
    start = push_start(1, Start(Role.SERVER, socket=True, psk_file=True))
    with served(Registered(authority), path, Limits(connections=4, threads=2), emulated_quic_socket):
        before = threading.active_count()
        refused = []
        for _ in range(8):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs, psk.open() as file, HandshakeChannel(path) as channel:
                with suppress(BrokenPipeError):  # it is refused
                    channel.send(start + b"malformed", descriptors=(ours.fileno(), file.fileno()))
                assert channel.closed()
                refused.append(not channel.inbox[0])
        assert refused == [False] * 4 + [True] * 4
        assert eventually(lambda: threading.active_count() <= before + 2)  # closing refused connections takes others
        stall.go_on.set()
        assert eventually(lambda: is_served(path))
        assert eventually(lambda: str(psk) not in descriptors_of("self"))


def is_served(path: Path) -> bool:
    """Return whether a new connection is accepted."""
    with HandshakeChannel(path) as channel:
        try:
            channel.send(push_start(1, server_start(), ack=True))
            return bool(channel.until(1, Acknowledged))
        except (GoneError, ConnectionError):
            return False
