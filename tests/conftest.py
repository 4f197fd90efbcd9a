"""Fixtures of many tests: a certificate authority, certificates that are made once, and daemons."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from handshaked.model import KeyType
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.run_name import public_temporary_directory

pytest_plugins = ["tests.plugins.alone", "tests.plugins.memory", "tests.plugins.needs", "tests.plugins.leftovers"]

# The time that a generated example takes says more about the machine than about the code.
hypothesis.settings.register_profile("handshaked", deadline=None, max_examples=100)
hypothesis.settings.load_profile("handshaked")

Issue = Callable[..., Issued]
_SLOW_SECONDS = 900


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give slow tests the time they need; leave out those of a whole emulated machine unless they are asked for."""
    if os.environ.get("HANDSHAKED_QEMU") != "1":
        left_out = [item for item in items if item.get_closest_marker("qemu")]
        items[:] = [item for item in items if not item.get_closest_marker("qemu")]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


@pytest.fixture(autouse=True)
def same_signal_handlers() -> Iterator[None]:
    """No test changes how this process handles signals: later tests, and the programs they start, inherit it."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def issue(authority: Authority) -> Issue:
    """Certificates for names by key type; the same one for the same question."""
    made: dict[tuple[tuple[str, ...], KeyType], Issued] = {}

    def issued(*names: str, key_type: KeyType = KeyType.ECDSA_P256) -> Issued:
        if (names, key_type) not in made:
            made[names, key_type] = authority.issue(*names, key_type=key_type, file_name=f"issued-{len(made)}")
        return made[names, key_type]

    return issued


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own; short enough for the paths of sockets."""
    with public_temporary_directory() as path:
        yield path


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[RunningDaemon]:
    """A daemon that tests share which neither stop it nor leave registrations behind that others may meet."""
    with public_temporary_directory() as path, RunningDaemon(path) as daemon:
        yield daemon


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon with two workers for one test."""
    with RunningDaemon(public_directory) as running:
        yield running
