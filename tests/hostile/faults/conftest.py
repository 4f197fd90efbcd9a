"""An injector of faults, and the daemon that it disturbs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.running_bus import RunningBus
from tests.hostile.faults.injector import Injector
from tests.hostile.faults.scene import Scene
from tests.run_name import public_temporary_directory


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    with public_temporary_directory() as path:
        yield path


@pytest.fixture(scope="module")
def injector(directory: Path) -> Iterator[Injector]:
    """An injector whose library and switches are in `directory`."""
    with Injector(directory) as injector:
        yield injector


@pytest.fixture(scope="module")
def scene(directory: Path) -> Scene:
    return Scene(directory)


@pytest.fixture(scope="module")
def daemon(directory: Path, injector: Injector, scene: Scene) -> Iterator[RunningDaemon]:
    with ExitStack() as stack:
        bus = stack.enter_context(RunningBus(directory))
        daemon = RunningDaemon(
            directory, workers=1, environment=injector.environment, options=("--no-kernel", f"--bus={bus.address}")
        )
        stack.enter_context(daemon)
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        scene.register_kept(daemon)
        assert scene.recovers(daemon)
        yield daemon
