"""Files that others name or pass: only regular ones are opened, only bounded ones read, no exposed secrets."""

import os
from pathlib import Path

import pytest

from handshaked.errors import RefusedError
from handshaked.registry.files import open_regular, read_file


def read(path: Path, *, secret: bool) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return read_file(descriptor, str(path), secret=secret)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o606, 0o642])
def test_secret_file_open_to_everyone_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"key")
    path.chmod(mode)
    with pytest.raises(RefusedError, match=rf"everyone can (read|write) this secret file \(mode {mode:04o}\).*chmod"):
        read(path, secret=True)
    assert read(path, secret=False) == b"key"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o400])
def test_secret_file_of_owner_and_group_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"key")
    path.chmod(mode)
    assert read(path, secret=True) == b"key"


def test_descriptor_of_other_than_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(RefusedError, match="not a regular file"):
            read(path, secret=False)


def test_other_than_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(RefusedError, match=f"^{path}: not a regular file"):
            open_regular(str(path))
    with pytest.raises(OSError, match=f"'{tmp_path}/none'"):
        open_regular(f"{tmp_path}/none")


def test_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.pem"
    with path.open("wb") as file:
        file.truncate(1024 * 1024 + 1)
    with pytest.raises(RefusedError, match="1048577 bytes, the limit is 1048576"):
        read(path, secret=False)
