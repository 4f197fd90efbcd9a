"""An injector of faults, and the directory of the daemons that it disturbs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.faults.injector import Injector
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
