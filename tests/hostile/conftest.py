"""A daemon of an ordinary user, as attackers find it on a system."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.control.handshakes import NAME
from tests.hostile.honest import DAEMON, HONEST, TRUST, environment
from tests.plugins.needs import need, public_python


@pytest.fixture
def hostile_daemon(public_directory: Path, authority: Authority, issue: Issue) -> Iterator[RunningDaemon]:
    """Run a daemon of the user DAEMON with two workers; HONEST may use its registration ``honest``."""
    need("root", "public python")
    os.chown(public_directory, DAEMON, DAEMON)
    (public_directory / TRUST).write_bytes(authority.root.read_bytes())
    issued = issue(NAME)
    with RunningDaemon(
        public_directory,
        user=DAEMON,
        launcher=("env", f"PYTHONPATH={environment()['PYTHONPATH']}"),
        python=str(public_python()),
    ) as daemon:
        daemon.register(
            "honest",
            (issued.certificate, issued.key),
            alpns=["h3"],
            server_names=[NAME],
            allow_users=[str(HONEST)],
        )
        yield daemon
