"""handshakectl for people: what status, monitor, top, test and doctor say, and that colours are for terminals."""

import contextlib
import grp
import json
import os
import pty
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.cli.output import DAY, date, ends
from handshaked.cli.watching import chart, kernel_state
from handshaked.model import Role
from handshaked.shim import BlockingClient
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.messages import Start
from tests.patience import PATIENCE

PROGRAM = Path(sys.executable).with_name("handshakectl")
NAME = "www.example.com"


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(public_directory, workers=1) as daemon:
        yield daemon


@pytest.fixture
def web(daemon: RunningDaemon, tmp_path: Path) -> Authority:
    """The authority of the registration web."""
    authority = Authority(tmp_path)
    issued = authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    return authority


def run(daemon: RunningDaemon, *words: str, status: int = 0) -> str:
    """What a command prints, in a pipe."""
    command = [str(PROGRAM), words[0], f"--socket={daemon.control_socket}", *words[1:]]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout + process.stderr


def run_on_terminal(daemon: RunningDaemon, *words: str, **environment: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    command = [str(PROGRAM), words[0], f"--socket={daemon.control_socket}", *words[1:]]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm-256color", **environment}
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # the terminal's other end is closed
            pass
        process.wait(60)
    os.close(ours)
    return said.decode()


def fail(daemon: RunningDaemon, count: int) -> None:
    with BlockingClient(daemon.handshake_socket) as door:
        for _ in range(count):
            door.start(Start(role=Role.CLIENT))


@pytest.mark.parametrize("words", [("status",), ("list",), ("explain", "--server-name", NAME, "--alpn", "h3")])
def test_colours_are_for_terminals(daemon: RunningDaemon, web: Authority, words: tuple[str, ...]) -> None:
    assert "\x1b[" not in run(daemon, *words)
    assert "\x1b[" in run_on_terminal(daemon, *words)
    assert "\x1b[3" not in run_on_terminal(daemon, *words, NO_COLOR="1")


def test_status_tells_what_is_wrong(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    said = run(daemon, "status")
    assert "self-test:      ok" in said
    assert "1 of 1 answer" in said
    (tmp_path / f"{NAME}-ecdsa-p256.key").write_text("nonsense")
    run(daemon, "reload", status=1)
    assert "no readable private key" in run(daemon, "status", status=1)


def test_certificates_that_end_soon_are_shown(daemon: RunningDaemon, tmp_path: Path) -> None:
    soon = Authority(tmp_path).issue(NAME, valid=(-1, 5))
    daemon.register("soon", (soon.certificate, soon.key), alpns=["h3"])
    words = "certificate CN=www.example.com ends in 4 days"  # and some hours, which doctor took for a fifth
    assert f"soon: {words}" in run(daemon, "status")
    assert f"soon: the {words}" in run(daemon, "doctor")


def test_days_are_told_in_words_while_there_are_some() -> None:
    now = time.time()
    assert ends(now + 2.5 * DAY) == "ends in 2 days"
    assert ends(now + 1.5 * DAY) == "ends in 1 d 11 h"
    assert ends(now - DAY) == f"ended on {date(now - DAY)}"


def test_users_and_groups_were_told_by_number(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    nobody, nogroup = pwd.getpwnam("nobody"), grp.getgrgid(65534)
    issued = web.issue("a.example.com")
    run(
        daemon, "register", "a", f"--cert={issued.certificate}", f"--key={issued.key}", "--alpn=smb",
        "--allow-user=nobody", f"--allow-group={nogroup.gr_gid}", "--allow-user=12345", "--allow-kernel",
    )  # fmt: skip
    me = pwd.getpwuid(os.geteuid()).pw_name
    users = f"{me}, 12345, {nobody.pw_name}, group {nogroup.gr_name}, kernel"
    assert users in run(daemon, "list")
    assert f"may use it:     {users}" in run(daemon, "show", "a")


def test_a_test_is_a_real_handshake(daemon: RunningDaemon, web: Authority) -> None:
    said = run(daemon, "test", "web", "--ca", str(web.root))
    assert said.splitlines()[-1] == "ok"
    result = json.loads(run(daemon, "test", "web", "--ca", str(web.root), "--json"))
    assert (result["done"], result["registered"], result["verified"]) == (True, True, True)


def test_a_server_that_does_not_answer_was_told_of_by_complaints_of_asyncio(
    daemon: RunningDaemon, web: Authority
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said = run(daemon, "test", "web", "--connect", address, "--timeout=0.5", status=1)
    assert f"handshake:      failed: {address}: no answer\nnot ok\n" in said
    assert "exception" not in said


def test_trust_that_is_not_there_was_a_traceback(daemon: RunningDaemon, web: Authority) -> None:
    for words in ((), ("--connect=127.0.0.1:1", "--transport=tcp"), ("--connect=127.0.0.1:1",)):
        said = run(daemon, "test", "web", "--ca=/nowhere", *words, status=1)
        assert said == "handshakectl: /nowhere: No such file or directory\n"


def test_an_interval_of_nothing_was_a_traceback(daemon: RunningDaemon) -> None:
    assert "a number from 0.1 to 60 is wanted" in run(daemon, "top", "--interval=0", status=2)


def test_a_test_tells_what_clients_would_refuse(daemon: RunningDaemon, web: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "another CA")
    said = run(daemon, "test", "web", "--ca", str(other.root), status=1)
    assert "handshake:      done" in said
    assert "verified:       no: " in said
    assert "no registration serves" in run(daemon, "test", "web", "--server-name", "other.example.org", status=1)
    assert "no registration 'nothing'" in run(daemon, "test", "nothing", status=1)


SERVER = """
import asyncio, sys
from pathlib import Path
from aioquic.quic.configuration import QuicConfiguration
from handshaked.shim.aioquic import serve
from handshaked.shim import HandshakeClient

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    client = HandshakeClient(Path(sys.argv[1]))
    server = await serve("127.0.0.1", 0, configuration=configuration, client=client)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_test_connects_to_a_server(daemon: RunningDaemon, web: Authority) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(daemon.handshake_socket)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        said = run(daemon, "test", "web", "--ca", str(web.root), "--connect", f"127.0.0.1:{port}")
        assert "that of web" in said
        assert said.splitlines()[-1] == "ok"
    finally:
        server.kill()
        server.communicate(timeout=PATIENCE)


def test_monitor_shows_what_ends(daemon: RunningDaemon) -> None:
    command = [str(PROGRAM), "monitor", f"--socket={daemon.control_socket}", "--failed", "--count=2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        while monitor.poll() is None:
            fail(daemon, 2)
        assert monitor.stdout is not None
        events = [json.loads(line) for line in monitor.stdout]
    assert [event["outcome"] for event in events] == ["failed", "failed"]
    assert monitor.returncode == 0
    assert "FAILED client" in run(daemon, "recent", "--failed", "--limit", "3")


def test_top_counts(daemon: RunningDaemon, web: Authority) -> None:
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


def test_top_lives_on_a_terminal(daemon: RunningDaemon) -> None:
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
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
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


def test_the_chart_is_as_high_as_its_highest() -> None:
    assert chart(deque([0, 1, 4, 8])) == " ▁▄█"
    assert chart(deque([0])) == " "


def test_the_doctor_finds_nothing_wrong(daemon: RunningDaemon, web: Authority) -> None:
    findings = json.loads(run(daemon, "doctor", "--json"))["findings"]
    assert not [finding for finding in findings if finding["level"] == "fault"]
    assert any("handshakes with itself" in finding["what"] for finding in findings)
    assert all(finding["mend"] for finding in findings if finding["level"] != "ok")


def test_the_doctor_tells_what_is_wrong_and_how_to_mend_it(
    daemon: RunningDaemon, web: Authority, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}-ecdsa-p256.key").unlink()
    run(daemon, "reload", status=1)
    daemon.handshake_socket.chmod(0o600)
    findings = json.loads(run(daemon, "doctor", "--json", status=1))["findings"]
    [fault] = [finding for finding in findings if finding["level"] == "fault"]
    assert "No such file" in fault["what"]
    assert "handshakectl reload" in fault["mend"]
    assert any("not everyone may connect" in finding["what"] for finding in findings)


def test_the_doctor_of_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    command = [str(PROGRAM), "doctor", f"--socket={tmp_path}/control.sock"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == 1
    assert "cannot reach the daemon" in process.stdout
    assert "systemctl start handshaked.socket" in process.stdout


def test_grants_come_and_go(daemon: RunningDaemon) -> None:
    assert run(daemon, "grant", "--user=bin", "--alpn=smb", "--server-name=*.example.com") == "grant 1\n"
    assert run(daemon, "grant", "--user=bin", "--alpn=smb", "--server-name=*.example.com") == "grant 1\n"  # that one
    assert "user bin" in run(daemon, "grants")
    assert len(run(daemon, "grants").splitlines()) == 2
    run(daemon, "revoke", "1")
    assert "no grant 1" in run(daemon, "revoke", "1", status=1)
    assert "no user" in run(daemon, "grant", "--user=no-such-user", "--alpn=smb", status=1)
    assert "for a user or for a group" in run(daemon, "grant", "--alpn=smb", status=1)


@pytest.mark.parametrize(
    ("doors", "said"),
    [
        ([], "its requests are not taken"),
        ([[(".", "serving")], [(".", "serving")]], "its requests are taken by 2 of 2 workers"),
        ([[(".", "no family")], [(".", "no family")]], "no family"),
        ([[(".", "serving")], [(".", "no family")]], "its requests are taken by 1 of 2 workers; no family"),
        ([[(".", "serving"), ("a", "no netlink")]], "its requests are taken by 1 of 1 workers, a: no netlink"),
    ],
)
def test_requests_that_nobody_takes_were_said_to_be_taken(doors: list[list[tuple[str, str]]], said: str) -> None:
    workers = [{"kernel": [{"network_namespace": name, "state": state} for name, state in worker]} for worker in doors]
    assert kernel_state(workers) == said
