"""Clients check who listens at a daemon's socket before they send anything."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from handshaked.control.client import ControlClient
from handshaked.demux.main import main as demux_main
from handshaked.demux.registry_follower import RegistryFollower
from handshaked.errors import RefusedError
from handshaked.model import Role
from handshaked.shim import (
    BlockingClient,
    DemuxClient,
    HandshakeClient,
    Start,
    quic_server_handshake,
    quic_server_handshake_async,
)
from handshaked.shim.quic import QuicSocketOptions
from handshaked.system.connecting import connect
from tests.patience import soon

NOBODY = 65534


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        yield sock


@pytest.fixture
def attacker(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket bound below `tmp_path` on which another user listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.setblocking(False)
        os.seteuid(NOBODY)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        yield listener


def test_only_paths_are_connected_to(client: socket.socket) -> None:
    """Anybody can bind an abstract name."""
    name = f"\0{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as abstract:
        abstract.bind(name)
        abstract.listen()
        for path in (name, "", "/run/handshaked\0/handshake.sock"):
            with pytest.raises(OSError, match="empty or contains a NUL") as raised:
                connect(client, path)
            assert raised.value.errno == errno.EINVAL


def test_own_listener_is_accepted(client: socket.socket, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        connect(client, tmp_path / "daemon.sock")


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
def test_listener_of_another_user_is_refused(
    client: socket.socket, attacker: socket.socket, tmp_path: Path, mode: int
) -> None:
    """In such a directory not only its owner can bind a socket."""
    tmp_path.chmod(mode)
    if not mode & 0o1000:
        os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(PermissionError):
        connect(client, attacker.getsockname())


@pytest.mark.needs("root")
def test_owner_of_the_directory_is_accepted(client: socket.socket, attacker: socket.socket, tmp_path: Path) -> None:
    """As the daemon's user owns /run/handshaked."""
    os.chown(tmp_path, NOBODY, NOBODY)
    connect(client, attacker.getsockname())


def shared(path: Path) -> None:
    async def start() -> None:
        HandshakeClient(path).start(Start(Role.SERVER), lambda _: None)

    asyncio.run(start())


def on_quic_socket(path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        quic_server_handshake(ours, options=QuicSocketOptions(path=path))


def on_quic_socket_async(path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asyncio.run(quic_server_handshake_async(ours, options=QuicSocketOptions(path=path)))


def demultiplexed(path: Path) -> None:
    async def start() -> None:
        await DemuxClient(("web",), lambda _flow, sock: sock.close(), path=path).start()

    asyncio.run(soon(start()))


def control(path: Path) -> None:
    ControlClient(path).ask("status", {})


CLIENTS = [BlockingClient, shared, on_quic_socket, on_quic_socket_async, demultiplexed, control]


@pytest.fixture
def overloaded(tmp_path: Path) -> Iterator[Path]:
    """The path of a daemon whose accept queue is full."""
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.setblocking(False)
                one.connect(str(path))
        yield path


def test_commands_wait_a_second_for_an_overloaded_daemon(overloaded: Path) -> None:
    with pytest.raises(RefusedError, match="timed out"):
        control(overloaded)


@pytest.mark.parametrize("use", [BlockingClient, on_quic_socket])
def test_blocking_clients_wait_a_second_for_an_overloaded_daemon(
    use: Callable[[Path], object], overloaded: Path
) -> None:
    """BlockingClient waited for as long as the daemon was overloaded."""
    with pytest.raises(OSError, match="timed out") as raised:
        use(overloaded)
    assert raised.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("use", [shared, demultiplexed])
def test_asyncio_clients_do_not_wait_for_an_overloaded_daemon(use: Callable[[Path], object], overloaded: Path) -> None:
    """A DemuxClient blocked its event loop."""
    with pytest.raises(BlockingIOError):
        use(overloaded)


@pytest.mark.needs("root")
@pytest.mark.parametrize("use", CLIENTS)
def test_every_client_refuses_another_user(use: Callable[[Path], object], attacker: socket.socket) -> None:
    with pytest.raises((OSError, RefusedError), match=r"Operation not permitted|neither root, this user"):
        use(Path(attacker.getsockname()))
    accepted, _ = attacker.accept()
    with accepted:
        assert accepted.recv(1) == b""


@pytest.mark.needs("root")
def test_demultiplexer_refuses_another_user(
    attacker: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status, and the registrations that it follows."""
    path = attacker.getsockname()
    monkeypatch.setattr(sys, "argv", ["handshaked-demux", "--status", f"--socket={path}"])
    with pytest.raises(SystemExit) as raised:
        demux_main()
    assert raised.value.code == 1
    assert "neither root, this user nor the daemon's user listens there" in capsys.readouterr().err

    async def follow() -> None:
        following = asyncio.create_task(RegistryFollower(Path(path), lambda _: None).run())
        for _ in range(2):  # the second connection shows that the first has failed
            accepted, _ = await soon(asyncio.get_running_loop().sock_accept(attacker))
            with accepted:
                assert await soon(asyncio.get_running_loop().sock_recv(accepted, 1)) == b""
        following.cancel()

    asyncio.run(follow())
