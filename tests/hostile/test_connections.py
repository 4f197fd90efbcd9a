"""A flood of connections delays nobody else, whether they are accepted or refused."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import NoReturn

import pytest

from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from tests.hostile.floods import connected
from tests.hostile.honest import Attack, Honest, compare, honest_handshakes, honest_status

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "public python")]

BEGIN = 1000
MORE_THAN_ONE_USER_GETS = 700


def connect_again_and_again(path: Path, underway: Callable[[], None], kept: int) -> NoReturn:
    """Connect to `path` without end, and keep the last `kept` connections open."""
    connections: deque[socket] = deque()
    made = 0
    while True:
        with suppress(BlockingIOError):  # the accept queue is full
            connections.append(connected(path))
            made += 1
            if made == BEGIN:
                underway()
        while len(connections) > kept:
            connections.popleft().close()


def leave_handshake_socket(directory: Path, underway: Callable[[], None]) -> None:
    connect_again_and_again(directory / "run" / directories.HANDSHAKE_SOCKET, underway, 0)


def stay_at_handshake_socket(directory: Path, underway: Callable[[], None]) -> None:
    connect_again_and_again(directory / "run" / directories.HANDSHAKE_SOCKET, underway, MORE_THAN_ONE_USER_GETS)


def leave_control_socket(directory: Path, underway: Callable[[], None]) -> None:
    connect_again_and_again(directory / "run" / directories.CONTROL_SOCKET, underway, 0)


def stay_at_control_socket(directory: Path, underway: Callable[[], None]) -> None:
    connect_again_and_again(directory / "run" / directories.CONTROL_SOCKET, underway, MORE_THAN_ONE_USER_GETS)


@pytest.mark.parametrize(
    ("honest", "attack"),
    [
        (honest_handshakes, leave_handshake_socket),
        (honest_handshakes, stay_at_handshake_socket),
        (honest_status, leave_control_socket),
        (honest_status, stay_at_control_socket),
    ],
)
def test_flood_of_connections_delays_nobody_else(hostile_daemon: RunningDaemon, honest: Honest, attack: Attack) -> None:
    compare(hostile_daemon.directory, honest, attack).check()
