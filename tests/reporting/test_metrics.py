"""Metrics in the OpenMetrics format, over a socket of this machine."""

import asyncio
import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from handshaked.callers.closing import Closer
from handshaked.reporting.counts import HandshakeCounts
from handshaked.reporting.metrics import Exporter, MetricValues
from handshaked.system.directories import DATABASE
from handshaked.testing.daemon import RunningDaemon
from tests.control.handshakes import fail, succeed
from tests.damage import damage
from tests.lingering import lingering_pair
from tests.patience import soon


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    options = ("--no-kernel", f"--metrics={public_directory}/metrics.sock")
    with RunningDaemon(public_directory, options=options) as daemon:
        yield daemon


def scrape(path: Path, request: str = "GET /metrics") -> tuple[int, str]:
    """Return the status and body of the response on the metrics socket."""
    with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(path))
        method, _, target = request.partition(" ")
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_metrics_count_handshakes(daemon: RunningDaemon, public_directory: Path, tmp_path: Path) -> None:
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


def test_metrics_are_served_while_the_registry_is_damaged(daemon: RunningDaemon, public_directory: Path) -> None:
    damage(daemon.state_directory / DATABASE)
    assert scrape(public_directory / "metrics.sock")[0] == 200
    assert "Traceback" not in daemon.log.read_text()


def test_dashboard_uses_only_exported_metrics(daemon: RunningDaemon, public_directory: Path, tmp_path: Path) -> None:
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


@pytest.mark.needs("root")  # the kernel shows the descriptors of a process without core dumps to nobody else
def test_metrics_are_off_by_default(public_directory: Path) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        listening = [line for line in Path(f"/proc/{daemon.pid}/net/tcp").read_text().splitlines() if " 0A " in line]
        own = {os.readlink(f"/proc/{daemon.pid}/fd/{name}") for name in os.listdir(f"/proc/{daemon.pid}/fd")}
        assert not [line for line in listening if f"socket:[{line.split()[9]}]" in own]


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "example.com:1", "127.0.0.1:x"])
def test_metrics_address_of_another_machine_is_refused(public_directory: Path, address: str) -> None:
    options = ("--no-kernel", f"--metrics={address}")
    with RunningDaemon(public_directory, workers=1, options=options) as daemon:
        daemon.wait_until(lambda: f"cannot serve metrics at {address}" in daemon.log.read_text())
        assert daemon.ask("status")["self_test"] == "ok"


def test_connections_for_metrics_are_limited(daemon: RunningDaemon, public_directory: Path) -> None:
    path = public_directory / "metrics.sock"

    def refused() -> bool:
        """Return whether a request is refused while many idle connections are open, for at most five seconds."""
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


def test_lingering_socket_in_a_request_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on kernels before Linux 6.16, which cannot refuse it: half a request with the last copy of the socket."""
    monkeypatch.setattr("handshaked.reporting.metrics.refuse_descriptors", lambda _: False)

    async def nothing() -> MetricValues:
        return MetricValues(HandshakeCounts(), 0, 0, 0, {}, [], 0)

    async def scenario() -> None:
        path = str(tmp_path / "socket")
        exporter = Exporter(nothing, Closer())
        exporter.start(None, path)
        with lingering_pair() as (sender, _), socket.socket(socket.AF_UNIX) as hostile:
            hostile.connect(path)
            socket.send_fds(hostile, [b"GET "], [sender.fileno()])
            socket.send_fds(hostile, [b"/"], [sender.fileno()])
            sender.close()
            for _ in range(3):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert (await soon(reader.read())).startswith(b"HTTP/1.1 200 OK")
                writer.close()
        exporter.close()

    asyncio.run(scenario())
    assert caplog.messages == []  # a task that is blocked until the test times out would log the interruption
