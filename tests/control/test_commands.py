"""Commands that show handshakes: recent, statistics, status and subscribe."""

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.model import Role
from handshaked.shim import BlockingClient
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.messages import Start
from tests.control.handshakes import fail, succeed


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    options = ("--no-kernel", f"--metrics={public_directory}/metrics.sock")
    with RunningDaemon(public_directory, options=options) as daemon:
        yield daemon


def test_recent_and_statistics_count_handshakes(daemon: RunningDaemon, tmp_path: Path) -> None:
    succeed(daemon, tmp_path, 3)
    fail(daemon, 2)
    daemon.wait_until(lambda: daemon.ask("status")["handshakes"] == {"succeeded": 3, "failed": 2})
    records = daemon.ask("recent")["handshakes"]
    assert [one["outcome"] for one in sorted(records, key=lambda one: one["time"])] == ["ok"] * 3 + ["failed"] * 2
    assert records[0]["registration"] == "web"
    assert len(daemon.ask("recent", limit=1)["handshakes"]) == 1
    assert daemon.ask("recent", limit=0)["handshakes"] == []
    assert len(daemon.ask("recent", outcome="failed")["handshakes"]) == 2
    counts = {tuple(key): count for *key, count in daemon.ask("statistics")["handshakes"]}
    assert counts.pop(("ok", "server", "unix", "web")) == 3
    assert sum(counts.values()) == 2
    with pytest.raises(RefusedError, match="limit must be an integer"):
        daemon.ask("recent", limit=-1)


def test_subscriber_receives_matching_handshakes(daemon: RunningDaemon, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with ControlClient(daemon.control_socket) as client, BlockingClient(daemon.handshake_socket) as channel:
        batches = client.subscribe({"outcome": "failed"})
        reading = threading.Thread(target=lambda: told.append(next(batches)), daemon=True)
        reading.start()
        while reading.is_alive():  # until the subscription is in effect
            channel.start(Start(role=Role.CLIENT))
            reading.join(0.01)
    [batch] = told
    assert batch["events"][0]["outcome"] == "failed"
    assert batch["lost"] == 0


def test_unknown_filter_is_refused(daemon: RunningDaemon) -> None:
    with ControlClient(daemon.control_socket) as client, pytest.raises(RefusedError, match="unknown key"):
        next(client.subscribe({"nonsense": "x"}))


def test_slow_subscriber_loses_events_and_delays_nobody(daemon: RunningDaemon) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lazy:
        lazy.connect(str(daemon.control_socket))
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.send(b'{"command":"subscribe"}')
        assert json.loads(lazy.recv(1 << 18)) == {"result": {}}
        fail(daemon, 6000)
        daemon.wait_until(lambda: daemon.ask("status")["handshakes"]["failed"] == 6000)
        heard = 0
        lazy.setblocking(False)
        try:
            while True:
                heard += len(json.loads(lazy.recv(1 << 18))["events"])
        except BlockingIOError:
            assert 0 < heard < 6000
        lazy.setblocking(True)
        fail(daemon, 1)
        assert json.loads(lazy.recv(1 << 18))["lost"] > 0


def test_self_test_is_neither_counted_nor_shown(daemon: RunningDaemon) -> None:
    status = daemon.ask("status")
    assert status["self_test"] == "ok"
    assert status["registrations"] == 0
    assert status["handshakes"] == {"succeeded": 0, "failed": 0}
    assert daemon.ask("list")["registrations"] == []
    with pytest.raises(RefusedError, match="no registration"):
        daemon.ask("show", name=".self-test")
    with pytest.raises(RefusedError, match="no registration"):
        daemon.ask("unregister", name=".self-test")
    with sqlite3.connect(daemon.state_directory / "registry.db") as db:
        assert db.execute("SELECT count(*) FROM registration").fetchone() == (1,)
    db.close()
