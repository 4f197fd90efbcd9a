"""A bus with the shipped policy, and a daemon on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.calls import USER
from tests.control.bus.running_bus import RunningBus


@pytest.fixture
def bus(public_directory: Path) -> Iterator[RunningBus]:
    with RunningBus(public_directory) as bus:
        yield bus


@pytest.fixture
def daemon(bus: RunningBus, public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon on the bus: it says so in its status."""
    with RunningDaemon(public_directory, options=("--no-kernel", f"--bus={bus.address}")) as daemon:
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        yield daemon


@pytest.fixture
def files(public_directory: Path) -> Issued:
    """A certificate and a key that a user may read."""
    issued = Authority(public_directory).issue("app.example.com")
    for path in (issued.certificate, issued.key):
        os.chown(path, USER, USER)
    return issued
