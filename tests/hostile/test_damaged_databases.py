"""Databases that the disk has damaged: what was loaded keeps serving, and each message says what to do."""

from pathlib import Path

import pytest

from handshaked.errors import RefusedError, Status
from handshaked.system.directories import DATABASE, REPLAY_RECORD
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.damage import damage
from tests.handshake_channel import HandshakeChannel, client_start, server_start, shake_hands

NAME = "a.example.com"


def register(daemon: RunningDaemon, issue: Issue, name: str) -> None:
    issued = issue(NAME)
    daemon.register(name, (issued.certificate, issued.key), alpns=[name], server_names=[NAME])


def statuses(daemon: RunningDaemon, alpn: bytes = b"web") -> tuple[int, int]:
    """Return the statuses of a handshake with the registration."""
    with HandshakeChannel(daemon.handshake_socket) as channel:
        client, server = shake_hands(channel, 100, 101, client_start(NAME, alpn), server_start())
    return client.status, server.status


def test_workers_start_with_a_damaged_record_of_used_tickets(public_directory: Path, issue: Issue) -> None:
    state = public_directory / "state"
    state.mkdir(mode=0o700)
    (state / REPLAY_RECORD).write_bytes(b"not a database" * 1000)
    with RunningDaemon(public_directory) as daemon:
        register(daemon, issue, "web")
        assert statuses(daemon) == (Status.OK, Status.OK)
        daemon.wait_until(lambda: "the record of used tickets is damaged" in daemon.log.read_text())
        log = daemon.log.read_text()
        assert log.count("the record of used tickets is damaged") == 1
        assert "Traceback" not in log
        assert (state / f"{REPLAY_RECORD}.damaged").exists()
        assert daemon.ask("status")["worker_restarts"] == 0


def test_registrations_in_use_survive_a_damaged_registry(public_directory: Path, issue: Issue) -> None:
    with RunningDaemon(public_directory, workers=1) as daemon:
        register(daemon, issue, "web")
        assert statuses(daemon) == (Status.OK, Status.OK)
        damage(daemon.state_directory / DATABASE)
        with pytest.raises(RefusedError, match="it is damaged: restore it from a backup"):
            register(daemon, issue, "other")
        assert statuses(daemon) == (Status.OK, Status.OK)
        assert daemon.ask("explain", server_name=NAME, alpns=["web"])["registration"] == "web"
        status = daemon.ask("status")
        assert status["registrations"] == 1
        # The regular look at all files may have met the damage, too.
        assert {"it is damaged" in problem for problem in status["problems"]} == {True}
        assert status["worker_restarts"] == 0
        assert "Traceback" not in daemon.log.read_text()


def test_daemon_with_a_damaged_registry_does_not_start(public_directory: Path) -> None:
    state = public_directory / "state"
    state.mkdir(mode=0o700)
    (state / DATABASE).write_bytes(b"not a database" * 1000)
    with pytest.raises(RuntimeError, match=r"cannot run: .*it is damaged: restore it from a backup"):
        RunningDaemon(public_directory).start()
    assert "Traceback" not in (public_directory / "daemon.log").read_text()
