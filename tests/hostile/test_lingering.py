"""Sockets whose last close() blocks, left unread in connections to the daemon, delay nobody else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from tests.hostile.floods import send_lingering
from tests.hostile.honest import Attack, Honest, compare, honest_handshakes, honest_status

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "public python")]


def on_handshake_socket(directory: Path, underway: Callable[[], None]) -> None:
    send_lingering(directory / "run" / directories.HANDSHAKE_SOCKET, b"malformed", underway)


def on_control_socket(directory: Path, underway: Callable[[], None]) -> None:
    send_lingering(directory / "run" / directories.CONTROL_SOCKET, b"malformed", underway)


@pytest.mark.parametrize(
    ("honest", "attack"), [(honest_handshakes, on_handshake_socket), (honest_status, on_control_socket)]
)
def test_unread_lingering_sockets_delay_nobody_else(
    hostile_daemon: RunningDaemon, honest: Honest, attack: Attack
) -> None:
    compare(hostile_daemon.directory, honest, attack).check()
