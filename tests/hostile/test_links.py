"""Long chains of symbolic links on a user's paths delay nobody else."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.system import directories
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.control.files.test_watch import chains
from tests.hostile.honest import ATTACKER, compare, honest_status

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.needs("root", "public python")]

NAME = "links.example.com"
CREDENTIALS = 8


def long_chains(directory: Path, underway: Callable[[], None]) -> None:
    """Register files behind chains of links, and change them again and again.

    They are changed without the links: the kernel is not preempted while it follows a chain, which takes milliseconds,
    and that would be measured instead of the daemon, for which each change is the same.
    """
    own = directory / "attacker"
    paths = sorted(own.glob("*.39"), key=lambda path: int(path.stem))
    certificates, keys = paths[:CREDENTIALS], paths[CREDENTIALS:]
    files = [path for pair in zip(certificates, keys, strict=True) for path in pair]
    request = {
        "name": "links",
        "alpns": ["h3"],
        "server_names": [NAME],
        "replace": True,
        "credentials": [
            {"certificate": str(certificate), "key": str(key)}
            for certificate, key in zip(certificates, keys, strict=True)
        ],
    }
    descriptors = tuple(os.open(path, os.O_RDONLY) for path in files)
    ends = [path.resolve() for path in files]
    socket = directory / "run" / directories.CONTROL_SOCKET
    with ControlClient(socket) as client:
        client.ask("register", request, descriptors)
    underway()
    while True:
        with ControlClient(socket) as client, suppress(RefusedError):  # this user's files are being read
            client.ask("register", request, descriptors)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            for file in ends:
                os.utime(file)


def test_chains_of_links_delay_nobody_else(hostile_daemon: RunningDaemon, issue: Issue) -> None:
    own = hostile_daemon.directory / "attacker"
    own.mkdir()
    issued = issue(NAME)
    for number, path in enumerate(chains(own, 2 * CREDENTIALS)):
        path.resolve().write_bytes((issued.certificate if number < CREDENTIALS else issued.key).read_bytes())
        path.resolve().chmod(0o600)
        os.chown(path.resolve(), ATTACKER, ATTACKER)
    os.chown(own, ATTACKER, ATTACKER)
    hostile_daemon.ask("grant", user=str(ATTACKER), alpns=["h3"], server_names=["*.example.com"])
    compare(hostile_daemon.directory, honest_status, long_chains).check()
