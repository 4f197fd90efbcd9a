"""A daemon of an ordinary user, as attackers find it on a system."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.control.handshakes import NAME
from tests.hostile.honest import DAEMON, HONEST, TRUST, environment
from tests.plugins.needs import need, public_python

UNREAD_LOG = "unread log"


@contextmanager
def unread_log(directory: Path) -> Iterator[None]:
    """Let the log of a daemon in `directory` be a pipe that is open for reading."""
    os.mkfifo(directory / "daemon.log")
    reader = os.open(directory / "daemon.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(reader)


@pytest.fixture
def hostile_daemon(
    request: pytest.FixtureRequest, public_directory: Path, authority: Authority, issue: Issue
) -> Iterator[RunningDaemon]:
    """Run a daemon of the user DAEMON with two workers; HONEST may use its registration ``honest``.

    With the parameter UNREAD_LOG, nobody reads its log, which is a pipe.
    """
    need("root", "public python")
    os.chown(public_directory, DAEMON, DAEMON)
    unread = getattr(request, "param", None) == UNREAD_LOG
    (public_directory / TRUST).write_bytes(authority.root.read_bytes())
    issued = issue(NAME)
    with (
        unread_log(public_directory) if unread else nullcontext(),
        RunningDaemon(
            public_directory,
            user=DAEMON,
            launcher=("env", f"PYTHONPATH={environment()['PYTHONPATH']}"),
            python=str(public_python()),
        ) as daemon,
    ):
        daemon.register(
            "honest",
            (issued.certificate, issued.key),
            alpns=["h3"],
            server_names=[NAME],
            allow_users=[str(HONEST)],
        )
        yield daemon
