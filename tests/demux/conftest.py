"""Fixtures: a daemon and a demultiplexer of different users, with registrations of several users."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handshaked.system.listening import open_listener
from handshaked.testing.authority import Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux
from tests.lending import lent
from tests.run_name import public_temporary_directory

DEMUX_USER = 2010
FIRST_USER, SECOND_USER = 2001, 2002
DAEMON_OPTIONS = ("--no-kernel", f"--demux-user={DEMUX_USER}")


@pytest.fixture(scope="session")
def daemon_for_demultiplexers() -> Iterator[RunningDaemon]:
    """The daemon whose registrations the demultiplexers of all tests follow, one after the other."""
    with public_temporary_directory() as path, RunningDaemon(path, options=DAEMON_OPTIONS) as daemon:
        yield daemon


@pytest.fixture
def demux_daemon(daemon_for_demultiplexers: RunningDaemon) -> Iterator[RunningDaemon]:
    """A shared daemon without registrations, which the demultiplexer's user may follow."""
    with lent(daemon_for_demultiplexers) as daemon:
        yield daemon


@pytest.fixture
def demux(public_directory: Path, demux_daemon: RunningDaemon) -> Iterator[RunningDemux]:
    """Run a demultiplexer on a port of loopback."""
    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER) as running:
        yield running


@pytest.fixture
def register(demux_daemon: RunningDaemon, issue: Callable[..., Issued]) -> Callable[..., None]:
    """Return a function that registers a server name with its own certificate for `user`."""

    def register(name: str, server_name: str, *alpns: str, user: int | None = None, **options: object) -> None:
        issued = issue(server_name)
        access = {"allow_users": [str(user)]} if user is not None and os.geteuid() == 0 else {}
        demux_daemon.register(
            name,
            (issued.certificate, issued.key),
            alpns=list(alpns),
            server_names=[server_name],
            **access,
            **options,
        )

    return register


@pytest.fixture
def control(tmp_path: Path) -> Iterator[socket.socket]:
    """A control socket whose answers come from the test."""
    with open_listener(tmp_path / "control.sock") as listener:
        listener.setblocking(False)
        yield listener
