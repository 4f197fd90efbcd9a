"""The control socket answers others in time, whatever a caller sends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from tests.hostile.floods import flood
from tests.hostile.honest import ATTACKER, Attack, compare, honest_status

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "public python")]


def registers(**settings: object) -> bytes:
    """Return a request to register something with `settings`."""
    request = {"command": "register", "name": "attack", "alpns": ["h3"], "credentials": [], "force": True, **settings}
    return json.dumps(request, ensure_ascii=False).encode()


def flood_control(directory: Path, packet: bytes, underway: Callable[[], None]) -> None:
    flood(directory / "run" / directories.CONTROL_SOCKET, [packet], underway)


def many_names(directory: Path, underway: Callable[[], None]) -> None:
    """Register 10,000 internationalised names."""
    flood_control(directory, registers(server_names=[f"ü{n}.example" for n in range(10_000)]), underway)


def many_users(directory: Path, underway: Callable[[], None]) -> None:
    """Register for 15,000 users, each to be looked up."""
    flood_control(directory, registers(allow_users=[f"u{n}" for n in range(15_000)]), underway)


def costly_names(directory: Path, underway: Callable[[], None]) -> None:
    """Register what a grant permits at most."""
    names = [f"{'ü' * 30}{n}.example.com" for n in range(100)]
    flood_control(directory, registers(server_names=names, allow_users=[f"u{n}" for n in range(256)]), underway)


def explain_users(directory: Path, underway: Callable[[], None]) -> None:
    """Ask what other users would get, each to be looked up."""
    packets = [json.dumps({"command": "explain", "user": f"u{n}", "alpns": ["h3"]}).encode() for n in range(1000)]
    flood(directory / "run" / directories.CONTROL_SOCKET, packets, underway)


@pytest.mark.parametrize("attack", [many_names, many_users, explain_users])
def test_caller_without_any_right_delays_nobody(hostile_daemon: RunningDaemon, attack: Attack) -> None:
    compare(hostile_daemon.directory, honest_status, attack, honest_user=0).check()


@pytest.mark.parametrize("attack", [costly_names])
def test_caller_with_a_grant_delays_nobody(hostile_daemon: RunningDaemon, attack: Attack) -> None:
    hostile_daemon.ask("grant", user=str(ATTACKER), alpns=["h3"], server_names=["*.example.com"])
    compare(hostile_daemon.directory, honest_status, attack).check()
