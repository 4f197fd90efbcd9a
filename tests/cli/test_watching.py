"""``status``, ``recent``, ``monitor`` and ``top``."""

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections import deque
from pathlib import Path

import pytest

from handshaked.cli.watching import chart, kernel_state
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.cli.commands import NAME, PROGRAM, fail, run, run_on_terminal


@pytest.fixture
def daemon(own_daemon: RunningDaemon) -> RunningDaemon:
    """A daemon that counts the handshakes of one test."""
    return own_daemon


def test_status_shows_problems(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    said = run(daemon, "status")
    assert "self-test:      ok" in said
    assert "1 of 1 answer" in said
    (tmp_path / f"{NAME}-ecdsa-p256.key").write_text("nonsense")
    run(daemon, "reload", status=1)
    assert "no readable private key" in run(daemon, "status", status=1)


def test_certificates_that_expire_soon_are_shown(daemon: RunningDaemon, tmp_path: Path) -> None:
    soon = Authority(tmp_path).issue(NAME, valid=(-85, 5))
    daemon.register("soon", (soon.certificate, soon.key), alpns=["h3"])
    words = "certificate CN=www.example.com expires in 4 days"  # and some hours, which doctor took for a fifth
    assert f"soon: {words}" in run(daemon, "status")
    assert f"soon: the {words}" in run(daemon, "doctor")


@pytest.mark.parametrize(("lived", "left", "warned"), [(0.01, 5.99, False), (4.5, 1.5, True), (0.01, 0.99, False)])
def test_warnings_of_expiry_fit_the_lifetime(
    public_directory: Path, tmp_path: Path, lived: float, left: float, warned: bool
) -> None:
    short = Authority(tmp_path).issue(NAME, valid=(-lived, left))
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.register("short", (short.certificate, short.key), alpns=["h3"])
    with RunningDaemon(public_directory, workers=1) as daemon:  # it looks for what expires soon when it starts
        daemon.wait_until(lambda: "is ready" in daemon.log.read_text())
        for command in ("status", "doctor"):
            assert ("expires in" in run(daemon, command)) is warned
        assert ("\x1b[33m" in run_on_terminal(daemon, "list")) is warned
        if warned:
            daemon.wait_until(
                lambda: "short: the certificate CN=www.example.com expires in 1 d" in daemon.log.read_text()
            )


def test_an_interval_of_zero_is_refused(daemon: RunningDaemon) -> None:
    assert "must be a number of seconds from 0.1 to 60" in run(daemon, "top", "--interval=0", status=2)


def test_monitor_prints_handshakes_as_they_end(daemon: RunningDaemon) -> None:
    command = [str(PROGRAM), "monitor", f"--socket={daemon.control_socket}", "--failed", "--count=2", "--json"]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as monitor:
        while monitor.poll() is None:
            fail(daemon, 2)
        assert monitor.stdout is not None
        events = [json.loads(line) for line in monitor.stdout]
    assert [event["outcome"] for event in events] == ["failed", "failed"]
    assert monitor.returncode == 0
    assert "FAILED client" in run(daemon, "recent", "--failed", "--limit", "3")


def test_top_counts_handshakes_and_failures(daemon: RunningDaemon, web: Authority) -> None:
    fail(daemon, 3)
    daemon.wait_until(lambda: daemon.ask("status")["handshakes"]["failed"] == 3)
    run(daemon, "test", "web", "--ca", str(web.root))
    daemon.wait_until(lambda: daemon.ask("status")["handshakes"]["succeeded"] == 2)
    result = json.loads(run(daemon, "top", "--json"))
    assert (result["succeeded"], result["failed"]) == (2, 3)
    assert sum(result["failures_by_reason"].values()) == 3
    assert result["handshakes_by_registration"]["web"] == 1
    assert result["latency_ms"]["p50"] > 0
    said = run(daemon, "top", "--once")
    assert "failures by reason" in said
    assert "handshakes by registration: - 4, web 1\n" in said  # those without one had no name at all


def test_top_updates_on_a_terminal(daemon: RunningDaemon) -> None:
    ours, theirs = pty.openpty()
    # Tests that a shell runs in the background would hand down that SIGINT is ignored.
    command = [
        "env",
        "--default-signal=INT",
        str(PROGRAM),
        "top",
        f"--socket={daemon.control_socket}",
        "--interval=0.1",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with ending(subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)) as process:
        os.close(theirs)
        said = b""
        while b"handshakes/s" not in said or b"p99" not in said:
            said += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: it has gone
            while os.read(ours, 65536):  # a terminal that nobody reads from would keep it
                pass
        assert process.wait(60) == 130
    os.close(ours)


def test_the_chart_scales_to_the_highest_value() -> None:
    assert chart(deque([0, 1, 4, 8])) == " ▁▄█"
    assert chart(deque([0])) == " "


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([], "upcalls are off"),
        ([[(".", "serving")], [(".", "serving")]], "2 of 2 workers accept upcalls"),
        ([[(".", "no family")], [(".", "no family")]], "no family"),
        ([[(".", "serving")], [(".", "no family")]], "1 of 2 workers accept upcalls; no family"),
        ([[(".", "serving"), ("a", "no netlink")]], "1 of 1 workers accept upcalls, a: no netlink"),
    ],
)
def test_kernel_state_counts_only_serving_workers(sources: list[list[tuple[str, str]]], said: str) -> None:
    workers = [
        {"kernel": [{"network_namespace": name, "state": state} for name, state in worker]} for worker in sources
    ]
    assert kernel_state(workers) == said
