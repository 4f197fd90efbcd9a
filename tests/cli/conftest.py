"""A daemon with one worker and a registration."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.cli.commands import NAME


@pytest.fixture
def daemon(public_directory: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(public_directory, workers=1) as daemon:
        yield daemon


@pytest.fixture
def web(daemon: RunningDaemon, tmp_path: Path) -> Authority:
    """The authority of the registration web."""
    authority = Authority(tmp_path)
    issued = authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    return authority
