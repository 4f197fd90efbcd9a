"""A daemon whose surroundings break: workers that cannot start, sockets that are removed, a second daemon."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handshaked.system.directories import CONTROL_SOCKET, DATABASE, HANDSHAKE_SOCKET
from handshaked.testing.daemon import RunningDaemon
from tests.damage import damage
from tests.system.test_systemd import EXEC

_EXIT_SECONDS = 120.0


def exit_status(daemon: RunningDaemon) -> int:
    """Wait until the daemon ends by itself, and return its exit status."""
    process = os.pidfd_open(daemon.pid)
    try:
        assert select.select([process], [], [], _EXIT_SECONDS)[0], "the daemon does not end"
    finally:
        os.close(process)
    return daemon.stop()


@pytest.mark.slow
def test_daemon_exits_if_no_worker_can_start(public_directory: Path) -> None:
    with RunningDaemon(public_directory) as daemon:
        damage(daemon.state_directory / DATABASE)
        for pid in daemon.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert exit_status(daemon) == 1
        log = daemon.log.read_text()
        assert "cannot run: no worker can start: 5 in a row have failed" in log
        assert "it is damaged: restore it from a backup" in log
        assert "Traceback" not in log


@pytest.mark.slow
def test_worker_that_cannot_start_leaves_the_others_serving(public_directory: Path) -> None:
    with RunningDaemon(public_directory) as daemon:
        victim, survivor = daemon.worker_pids()
        moved = daemon.state_directory / "moved"
        database = daemon.state_directory / DATABASE
        database.rename(moved)
        database.write_bytes(b"not a database" * 1000)
        os.kill(victim, signal.SIGKILL)
        daemon.wait_until(lambda: daemon.log.read_text().count("the worker cannot start") >= 6)
        assert daemon.worker_pids() == [survivor]
        moved.rename(database)
        daemon.wait_until(lambda: len(daemon.worker_pids()) == 2)


def test_second_daemon_with_another_state_does_not_touch_the_sockets(daemon: RunningDaemon, tmp_path: Path) -> None:
    before = [path.stat().st_ino for path in (daemon.handshake_socket, daemon.control_socket)]
    second = subprocess.run(
        [
            sys.executable, "-m", "handshaked.daemon", "--no-kernel", f"--state-directory={tmp_path}",
            f"--runtime-directory={daemon.runtime_directory}",
        ],
        capture_output=True, text=True, check=False, timeout=_EXIT_SECONDS,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"another handshaked is running in {daemon.runtime_directory}" in second.stderr
    assert [path.stat().st_ino for path in (daemon.handshake_socket, daemon.control_socket)] == before
    assert daemon.ask("status")["pid"] == daemon.pid


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "one socket"])
def test_daemon_ends_when_its_sockets_are_removed_and_makes_new_ones(public_directory: Path, whole: bool) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        if whole:
            shutil.rmtree(daemon.runtime_directory)
        else:
            daemon.handshake_socket.unlink()
        assert exit_status(daemon) == 1
        assert f"cannot run: {daemon.handshake_socket} was removed or replaced" in daemon.log.read_text()
        daemon.start()


@contextmanager
def listening(directory: Path) -> Iterator[list[socket.socket]]:
    """Listen as a socket unit of systemd does."""
    directory.mkdir()
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for sock, name in zip(sockets, (HANDSHAKE_SOCKET, CONTROL_SOCKET), strict=True):
        sock.bind(str(directory / name))
        sock.listen()
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def activated(directory: Path, sockets: list[socket.socket]) -> RunningDaemon:
    """Return a daemon that inherits `sockets` from systemd."""
    numbers = ",".join(str(sock.fileno()) for sock in sockets)
    return RunningDaemon(
        directory, workers=1, sockets=tuple(sockets), launcher=(sys.executable, "-c", EXEC, str(len(sockets)), numbers)
    )


def test_removed_sockets_of_systemd_are_replaced_at_the_next_start(public_directory: Path) -> None:
    with listening(public_directory / "run") as sockets:
        with activated(public_directory, sockets) as daemon:
            shutil.rmtree(daemon.runtime_directory)
            assert exit_status(daemon) == 1
        with activated(public_directory, sockets) as daemon:
            assert "the socket that systemd passed is no longer at" in daemon.log.read_text()
        with activated(public_directory, sockets) as daemon:  # in place of its own stale sockets
            assert daemon.handshake_socket.exists()


@pytest.mark.slow
def test_failing_self_test_ends_the_start(public_directory: Path) -> None:
    """The inherited socket is not the one that callers reach."""
    run, other = public_directory / "run", public_directory / "other"
    with listening(run) as sockets, listening(other):
        (other / HANDSHAKE_SOCKET).rename(run / HANDSHAKE_SOCKET)
        numbers = [sock.fileno() for sock in sockets]
        ended = subprocess.run(
            [
                sys.executable, "-c", EXEC, "2", ",".join(map(str, numbers)), sys.executable, "-m",
                "handshaked.daemon", "--no-kernel", "--workers=1", f"--state-directory={public_directory}/state",
            ],
            capture_output=True, text=True, check=False, timeout=_EXIT_SECONDS, pass_fds=numbers,
        )  # fmt: skip
    assert ended.returncode == 1
    assert "cannot run: the self-test failed 3 times: no answer within 5 s" in ended.stderr
    assert "Traceback" not in ended.stderr
