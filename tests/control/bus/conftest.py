"""A bus with the shipped policy, and a daemon on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.calls import USER
from tests.control.bus.running_bus import RunningBus
from tests.lending import lent
from tests.run_name import public_temporary_directory


@contextmanager
def daemon_on(bus: RunningBus, directory: Path) -> Iterator[RunningDaemon]:
    """Run a daemon below `directory` on `bus`: it says so in its status."""
    with RunningDaemon(directory, options=("--no-kernel", f"--bus={bus.address}")) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        yield daemon


@pytest.fixture(scope="session")
def shared_bus() -> Iterator[RunningBus]:
    with public_temporary_directory() as path, RunningBus(path) as bus:
        yield bus


@pytest.fixture(scope="session")
def daemon_on_shared_bus(shared_bus: RunningBus) -> Iterator[RunningDaemon]:
    with public_temporary_directory() as path, daemon_on(shared_bus, path) as daemon:
        yield daemon


@pytest.fixture
def bus(shared_bus: RunningBus) -> RunningBus:
    """A shared bus. Modules whose tests need one of their own take `own_bus` and `own_daemon` instead."""
    return shared_bus


@pytest.fixture
def daemon(daemon_on_shared_bus: RunningDaemon) -> Iterator[RunningDaemon]:
    """A shared daemon on the bus, without registrations and grants."""
    with lent(daemon_on_shared_bus) as daemon:
        yield daemon


@pytest.fixture
def own_bus(public_directory: Path) -> Iterator[RunningBus]:
    """A bus for one test."""
    with RunningBus(public_directory) as bus:
        yield bus


@pytest.fixture
def own_daemon(own_bus: RunningBus, public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon for one test, on its own bus."""
    with daemon_on(own_bus, public_directory) as daemon:
        yield daemon


@pytest.fixture
def files(public_directory: Path) -> Issued:
    """A certificate and a key that a user may read."""
    issued = Authority(public_directory).issue("app.example.com")
    for path in (issued.certificate, issued.key):
        os.chown(path, USER, USER)
    return issued
