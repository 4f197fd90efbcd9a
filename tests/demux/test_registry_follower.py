"""Following the registrations of a daemon that is not running, or sends invalid answers."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.demux.daemon import Demux, Settings
from handshaked.demux.registry_follower import RegistryFollower
from handshaked.demux.shared_port import open_shared
from handshaked.system.listening import open_listener
from tests.patience import PATIENCE


@pytest.fixture
def control(tmp_path: Path) -> Iterator[socket.socket]:
    """A control socket whose answers come from the test."""
    with open_listener(tmp_path / "control.sock") as listener:
        listener.setblocking(False)
        yield listener


async def _answer(control: socket.socket, **answer: object) -> None:
    """Answer the first request of the next connection."""
    loop = asyncio.get_running_loop()
    sock, _ = await loop.sock_accept(control)
    with sock:
        await loop.sock_recv(sock, 1000)
        await loop.sock_sendall(sock, json.dumps(answer).encode())


@pytest.mark.slow
def test_missing_daemon_is_logged_once(control: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    snapshots: list[object] = []

    async def scenario() -> None:
        following = asyncio.create_task(RegistryFollower(control.getsockname(), snapshots.append).run())
        for _ in range(8):  # enough to reach the longest back-off
            await _answer(control, error="not now")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await _answer(control, result={"generation": 1, "registrations": [], "more": False})
        await _answer(control, error="not now")
        following.cancel()

    asyncio.run(scenario())
    assert len(snapshots) == 1
    assert [record.message for record in caplog.records if record.levelname == "INFO"] == [
        f"following the registrations of {control.getsockname()} again"
    ]


def test_error_names_the_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "handshaked.demux.main", f"--listen=127.0.0.1:{port}", f"--socket={tmp_path}/sock"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert run.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in run.stderr


def test_unexpected_error_of_the_follower_ends_the_process(control: socket.socket, tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_shared(("127.0.0.1", 0)) as shared, open_listener(tmp_path / "accept.sock") as listener:
            running = asyncio.create_task(
                Demux(Settings(Path(os.fspath(control.getsockname()))), [shared], listener).run()
            )
            await _answer(control, result={"unexpected": "answer"})
            await asyncio.wait_for(running, 30)

    with pytest.raises(KeyError):
        asyncio.run(scenario())
