"""A daemon's lock and listening socket."""

import os
import socket
import stat
from pathlib import Path

import pytest

from handshaked.errors import RefusedError
from handshaked.system.listening import lock_file, open_listener
from tests.descriptors import none_left_open


def test_second_lock_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    first = lock_file(path, "another one is running")
    with pytest.raises(RefusedError, match="another one is running"):
        lock_file(path, "another one is running")
    os.close(first)
    os.close(lock_file(path, "another one is running"))


def test_refused_lock_leaves_no_descriptor(tmp_path: Path) -> None:
    first = lock_file(tmp_path / "lock", "busy")
    with none_left_open(), pytest.raises(RefusedError):
        lock_file(tmp_path / "lock", "busy")
    os.close(first)


def test_everyone_may_connect_to_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "run" / "handshake.sock"
    with open_listener(path) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        client.connect(str(path))
        accepted, _ = listener.accept()
        accepted.close()


def test_listener_replaces_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "handshake.sock"
    open_listener(path).close()
    with open_listener(path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))


def test_socket_of_a_killed_daemon_is_replaced_when_its_workers_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphaned = open_listener(tmp_path / "socket")
    monkeypatch.setattr("handshaked.system.listening.time.sleep", lambda _: orphaned.close())
    open_listener(tmp_path / "socket").close()


def test_live_socket_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.system.listening.time.sleep", lambda _: None)
    path = tmp_path / "socket"
    with open_listener(path) as first:
        first.setblocking(False)
        with pytest.raises(RefusedError, match=f"another process listens at {path}"):
            open_listener(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            first.accept()[0].close()  # the second one's attempt
            client.connect(os.fspath(path))
            first.accept()[0].close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_full_queue_and_other_types_are_live_too(
    tmp_path: Path, kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handshaked.system.listening.time.sleep", lambda _: None)
    path = tmp_path / "socket"
    with (
        socket.socket(socket.AF_UNIX, kind) as first,
        socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as client,
    ):
        first.bind(os.fspath(path))
        first.listen(0)
        client.connect(os.fspath(path))
        with pytest.raises(RefusedError):
            open_listener(path)
