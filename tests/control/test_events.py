"""Outcomes on their way from a worker to those who watch: recent, subscribers, statistics, metrics."""

import contextlib
import http.client
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.model import Role
from handshaked.shim import BlockingClient
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.messages import Done, Start
from tests.control.handshakes import handshake, verifier

NAME = "www.example.com"


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    options = ("--no-kernel", f"--metrics={public_directory}/metrics.sock")
    with RunningDaemon(public_directory, options=options) as daemon:
        yield daemon


def succeed(daemon: RunningDaemon, directory: Path, count: int) -> None:
    """Some handshakes for the registration web."""
    authority = Authority(directory)
    issued = authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    verify = verifier(authority.root)
    with BlockingClient(daemon.handshake_socket) as channel:
        for _ in range(count):
            assert handshake(channel, NAME, b"h3", verify)[0].status == 0


def fail(daemon: RunningDaemon, count: int) -> None:
    """Some requests that are refused at once."""
    with BlockingClient(daemon.handshake_socket) as channel:
        for _ in range(count):
            [done] = [one for one in channel.start(Start(role=Role.CLIENT)) if isinstance(one, Done)]
            assert done.outcome.status != 0


def test_handshakes_are_kept_and_counted(daemon: RunningDaemon, tmp_path: Path) -> None:
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


def test_subscribers_are_told(daemon: RunningDaemon, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    with ControlClient(daemon.control_socket) as client, BlockingClient(daemon.handshake_socket) as channel:
        batches = client.subscribe({"outcome": "failed"})
        reading = threading.Thread(target=lambda: told.append(next(batches)), daemon=True)
        reading.start()
        while reading.is_alive():  # from some moment on the subscription stands
            channel.start(Start(role=Role.CLIENT))
            reading.join(0.01)
    [batch] = told
    assert batch["events"][0]["outcome"] == "failed"
    assert batch["lost"] == 0


def test_a_bad_filter_is_refused(daemon: RunningDaemon) -> None:
    with ControlClient(daemon.control_socket) as client, pytest.raises(RefusedError, match="unknown key"):
        next(client.subscribe({"nonsense": "x"}))


def test_a_subscriber_that_does_not_read_costs_nobody_else(daemon: RunningDaemon) -> None:
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


def scrape(path: Path, request: str = "GET /metrics") -> tuple[int, str]:
    """What the metrics' socket answers."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(path))
    method, _, target = request.partition(" ")
    connection.request(method, target)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_metrics_add_up(daemon: RunningDaemon, public_directory: Path, tmp_path: Path) -> None:
    succeed(daemon, tmp_path, 4)
    fail(daemon, 1)
    daemon.wait_until(lambda: daemon.ask("status")["handshakes"] == {"succeeded": 4, "failed": 1})
    path = public_directory / "metrics.sock"
    status, text = scrape(path)
    assert status == 200
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    ok = (("door", "unix"), ("outcome", "ok"), ("registration", "web"), ("role", "server"))
    assert samples["handshaked_handshakes_total", ok] == 4
    kind = (("door", "unix"), ("role", "server"))
    assert samples["handshaked_handshake_duration_seconds_count", kind] == 4
    assert samples["handshaked_registrations", ()] == 1
    assert samples["handshaked_workers", ()] == 2
    assert samples["handshaked_worker_restarts_total", ()] == 0
    assert samples["handshaked_in_flight", (("worker", "0"),)] == 0
    end = samples["handshaked_certificate_not_after_seconds", (("registration", "web"),)]
    assert end == daemon.ask("show", name="web")["registration"]["credentials"][0]["not_after"]
    assert scrape(path, "GET /")[0] == 404
    assert scrape(path, "HEAD /metrics") == (200, "")
    assert path.stat().st_mode & 0o777 == 0o660


def test_the_dashboard_asks_for_what_is_served(daemon: RunningDaemon, public_directory: Path, tmp_path: Path) -> None:
    succeed(daemon, tmp_path, 1)
    dashboard = json.loads((Path(__file__).parents[2] / "docs/grafana-dashboard.json").read_text())
    asked = {
        word
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for word in target["expr"].translate(str.maketrans("()[]{}", "      ")).split()
        if word.startswith("handshaked_")
    }
    _, text = scrape(public_directory / "metrics.sock")
    served = {
        name
        for family in text_string_to_metric_families(text)
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket", f"{family.name}_count")
    }
    assert asked
    assert asked <= served


def test_metrics_are_off_unless_asked_for(public_directory: Path) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        listening = [line for line in Path(f"/proc/{daemon.pid}/net/tcp").read_text().splitlines() if " 0A " in line]
        own = {os.readlink(f"/proc/{daemon.pid}/fd/{name}") for name in os.listdir(f"/proc/{daemon.pid}/fd")}
        assert not [line for line in listening if f"socket:[{line.split()[9]}]" in own]


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "example.com:1", "127.0.0.1:x"])
def test_metrics_are_for_this_machine(public_directory: Path, address: str) -> None:
    options = ("--no-kernel", f"--metrics={address}")
    with RunningDaemon(public_directory, workers=1, options=options) as daemon:
        daemon.wait_until(lambda: f"cannot serve metrics at {address}" in daemon.log.read_text())
        assert daemon.ask("status")["self_test"] == "ok"


def test_connections_for_metrics_had_no_bound(daemon: RunningDaemon, public_directory: Path) -> None:
    path = public_directory / "metrics.sock"

    def refused() -> bool:
        """While there are many others, which are kept for five seconds."""
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                silent.connect(str(path))
            return not answered()

    def answered() -> bool:
        try:
            return scrape(path)[0] == 200
        except ConnectionError:
            return False

    assert any(refused() for _ in range(20))
    daemon.wait_until(answered)


def test_the_self_test_is_neither_counted_nor_shown(daemon: RunningDaemon) -> None:
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
