"""Daemons with one worker, and a registration."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import NAME
from tests.lending import lent
from tests.run_name import public_temporary_directory


@pytest.fixture(scope="session")
def daemon_for_commands() -> Iterator[RunningDaemon]:
    """The daemon that the tests of commands share."""
    with public_temporary_directory() as path, RunningDaemon(path, workers=1) as daemon:
        yield daemon


@pytest.fixture
def daemon(daemon_for_commands: RunningDaemon) -> Iterator[RunningDaemon]:
    """A shared daemon without registrations. Modules whose tests need one of their own take `own_daemon` instead."""
    with lent(daemon_for_commands) as daemon:
        yield daemon


@pytest.fixture
def own_daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon for one test."""
    with RunningDaemon(public_directory, workers=1) as daemon:
        yield daemon


@pytest.fixture
def web(daemon: RunningDaemon, tmp_path: Path) -> Authority:
    """The authority of the registration web."""
    authority = Authority(tmp_path)
    issued = authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    return authority
