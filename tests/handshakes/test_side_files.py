"""The configuration and its files, as the parent reads them for its workers."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from handshaked.errors import RefusedError
from handshaked.handshakes.peer_policy import load_side
from handshaked.handshakes.side_files import SideFiles, SideFilesWatch
from handshaked.model import Role
from handshaked.testing.authority import Authority
from tests.patience import soon


@pytest.fixture
def configuration(authority: Authority, tmp_path: Path) -> Path:
    """A configuration with files on both sides."""
    issued = authority.issue("side-files.example.com", file_name="side-files")
    (tmp_path / "side.pem").write_bytes(issued.certificate.read_bytes())
    (tmp_path / "side.key").write_bytes(issued.key.read_bytes())
    (tmp_path / "side.key").chmod(0o600)
    path = tmp_path / "handshaked.toml"
    path.write_text(
        f'[client]\ntrust = "{authority.root}"\n'
        f'[server]\ncertificate = "{tmp_path}/side.pem"\nprivate_key = "{tmp_path}/side.key"\n'
    )
    return path


def test_everything_is_passed_on_without_the_files(configuration: Path, tmp_path: Path) -> None:
    read = SideFiles.read(configuration, required=True)
    for path in tmp_path.iterdir():
        path.unlink()
    passed = SideFiles.pull(read.push())
    assert passed == read
    assert load_side(passed.configuration.client, Role.CLIENT, passed.content).servers is not None
    assert load_side(passed.configuration.server, Role.SERVER, passed.content).credential is not None


def test_keys_are_not_shown(configuration: Path, tmp_path: Path) -> None:
    assert (tmp_path / "side.key").read_text().splitlines()[1] not in repr(SideFiles.read(configuration, required=True))


def test_missing_configuration_means_defaults(tmp_path: Path) -> None:
    files = SideFiles.read(tmp_path / "none.toml", required=False)
    assert (files.text, files.contents) == ("", {})
    with pytest.raises(RefusedError, match="no such file"):
        SideFiles.read(tmp_path / "none.toml", required=True)


def test_changed_files_are_published_and_unusable_ones_said_once(
    configuration: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published: list[SideFiles] = []
    read = partial(SideFiles.read, configuration, required=True)
    watch = SideFilesWatch(read(), read, published.append)

    async def checks(count: int) -> None:
        for _ in range(count):
            await soon(watch.check())

    asyncio.run(checks(2))
    assert not published
    key = (tmp_path / "side.key").read_bytes()
    (tmp_path / "side.key").write_text("half of a renewal")
    asyncio.run(checks(3))
    with pytest.raises(RefusedError):
        watch.reload()
    assert not published
    (record,) = caplog.records
    assert "the current one stays in use" in record.getMessage()
    (tmp_path / "side.key").write_bytes(key + b"\n")
    asyncio.run(checks(2))
    assert [files.contents[str(tmp_path / "side.key")] for files in published] == [key + b"\n"]
    (tmp_path / "side.key").write_bytes(key)
    watch.reload()
    assert len(published) == 2
