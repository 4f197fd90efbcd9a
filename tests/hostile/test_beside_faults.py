"""Broken surroundings, and users who cause faults, cost an honest caller of another uid little."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from handshaked.control.client import ControlClient
from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.damage import damage
from tests.hostile.conftest import UNREAD_LOG
from tests.hostile.floods import flood
from tests.hostile.honest import ATTACKER, Attack, Honest, compare, honest_handshakes, honest_status
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.needs("root", "public python")]

GROUPS = list(range(70_000, 70_300))
ROUNDS, SECONDS = 3, 0.5
KILL_SECONDS = 0.1
LINES = 1000
"""Of the log, for each user and process in ten seconds."""
PROCESSES = 3

brief = partial(compare, rounds=ROUNDS, seconds=SECONDS)


def honest_handshakes_again(directory: Path, underway: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that starts again if the worker is killed that does the handshake."""
    once = honest_handshakes(directory, underway)

    def operation() -> None:
        for _ in range(5):
            with suppress(ConnectionError):
                once()
                return
        raise AssertionError("five workers were lost")

    return operation


def honest_reload(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that has the daemon look at all files."""

    def operation() -> None:
        with ControlClient(directory / "run" / directories.CONTROL_SOCKET) as client:
            client.ask("reload", {})

    return operation


def cause_log_lines(directory: Path, underway: Callable[[], None]) -> NoReturn:
    """Send malformed packets on ever new connections."""
    flood(directory / "run" / directories.HANDSHAKE_SOCKET, [b"malformed"], underway)


def have_many_groups(directory: Path, underway: Callable[[], None]) -> NoReturn:
    """Connect again and again as a user with more groups than are looked at."""
    os.setgroups(GROUPS)
    os.setgid(ATTACKER)
    os.setuid(ATTACKER)
    cause_log_lines(directory, underway)


def kill_workers(directory: Path, underway: Callable[[], None]) -> None:
    """Kill the first worker whenever it answers."""
    pause = threading.Event()
    with ControlClient(directory / "run" / directories.CONTROL_SOCKET) as client:
        while not pause.wait(KILL_SECONDS):
            first = client.ask("status", {})["workers"][0]
            if first["slot"] == 0 and first["answers"]:
                os.kill(first["pid"], signal.SIGKILL)
                underway()


def start_second_daemons(directory: Path, underway: Callable[[], None]) -> None:
    """Start daemons with another state at the sockets of the first one."""
    with tempfile.TemporaryDirectory() as state:
        command = [
            sys.executable, "-m", "handshaked.daemon", "--no-kernel", f"--state-directory={state}",
            f"--runtime-directory={directory}/run",
        ]  # fmt: skip
        while True:
            underway()
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
            assert "another handshaked is running" in ended.stderr


def damage_registry(directory: Path, underway: Callable[[], None]) -> None:
    """Damage the registry again and again."""
    pause = threading.Event()
    database = directory / "state" / directories.DATABASE
    while not pause.wait(0.05):
        damage(database)
        underway()


def spoil_certificate(directory: Path, underway: Callable[[], None]) -> None:
    """Renew a certificate with ones that are damaged in different ways."""
    own = directory / "attacker"
    certificate, key = own / "certificate.pem", own / "key.pem"
    request = {
        "name": "spoiled",
        "alpns": ["h3"],
        "server_names": ["spoiled.example.com"],
        "replace": True,
        "credentials": [{"certificate": str(certificate), "key": str(key)}],
    }
    good = (own / "good.pem").read_bytes()
    certificate.write_bytes(good)
    with ControlClient(directory / "run" / directories.CONTROL_SOCKET) as client:
        client.ask("register", request, tuple(os.open(path, os.O_RDONLY) for path in (certificate, key)))
    underway()
    source = random.Random(1)
    pause = threading.Event()
    while not pause.wait(0.01):
        spoiled = bytearray(good)
        spoiled[source.randrange(len(good))] = source.choice(b"AQgw/")
        certificate.write_bytes(spoiled)


@pytest.mark.parametrize(
    ("honest", "attack"),
    [
        (honest_handshakes_again, kill_workers),
        (honest_status, start_second_daemons),
    ],
)
def test_fault_costs_an_honest_caller_little(hostile_daemon: RunningDaemon, honest: Honest, attack: Attack) -> None:
    """Only the handshakes of the killed worker are lost."""
    brief(hostile_daemon.directory, honest, attack, attacker=0).check()
    assert hostile_daemon.ask("status")["worker_restarts"] >= (ROUNDS if attack is kill_workers else 0)


def test_damaged_registry_delays_nobody(hostile_daemon: RunningDaemon) -> None:
    compare(hostile_daemon.directory, honest_handshakes, damage_registry, attacker=0, rounds=1).check()
    assert "Traceback" not in hostile_daemon.log.read_text()


@pytest.mark.parametrize("hostile_daemon", [UNREAD_LOG], indirect=True)
def test_log_that_is_not_read_delays_nobody(hostile_daemon: RunningDaemon) -> None:
    brief(hostile_daemon.directory, honest_handshakes, cause_log_lines).check()


def test_caller_with_many_groups_delays_nobody_and_does_not_fill_the_log(hostile_daemon: RunningDaemon) -> None:
    started = time.monotonic()
    brief(hostile_daemon.directory, honest_handshakes, have_many_groups, attacker=0).check()
    windows = 2 + (time.monotonic() - started) / 10
    assert 0 < hostile_daemon.log.read_text().count("supplementary groups are ignored") <= windows * LINES * PROCESSES


def test_certificate_that_confuses_the_parser_does_not_delay_reload(
    hostile_daemon: RunningDaemon, issue: Issue
) -> None:
    own = hostile_daemon.directory / "attacker"
    own.mkdir()
    issued = issue("spoiled.example.com")
    for source, name in ((issued.certificate, "good.pem"), (issued.key, "key.pem")):
        shutil.copy(source, own / name)
        os.chown(own / name, ATTACKER, ATTACKER)
    os.chown(own, ATTACKER, ATTACKER)
    hostile_daemon.ask("grant", user=str(ATTACKER), alpns=["h3"], server_names=["*.example.com"])
    brief(hostile_daemon.directory, honest_reload, spoil_certificate, honest_user=0).check()
    assert "Traceback" not in hostile_daemon.log.read_text()
