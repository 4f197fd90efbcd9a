"""A daemon whose files a test renews, and the authority that issues them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    """A daemon with one worker."""
    with RunningDaemon(public_directory, workers=1) as daemon:
        yield daemon


@pytest.fixture
def own_authority(tmp_path: Path) -> Authority:
    """An authority of one test."""
    return Authority(tmp_path)
