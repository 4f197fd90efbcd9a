"""Advice on modes names who can follow it, and is given only where it has an effect."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from handshaked.registry.mode_advice import advise, file_system_type
from tests.patience import run_program
from tests.plugins.needs import mount_namespace

READ_ONLY = """
import sys
from handshaked.errors import RefusedError
from handshaked.registry.files import open_regular, read_file
try:
    read_file(open_regular(sys.argv[1]), sys.argv[1], secret=True)
except RefusedError as error:
    print(error)
"""
MOUNTS = """\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
36 22 8:1 / /boot/efi rw,relatime shared:2 master:3 - vfat /dev/sda1 rw,umask=0077
"""


def test_owner_is_told_to_run_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a key.pem"
    path.write_bytes(b"")
    link = tmp_path / "link"
    link.symlink_to(path)
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    assert advise("chmod o-rw", str(path), str(path)) == f"run as {who}: chmod o-rw {shlex.quote(str(path))}"
    assert advise("chmod o-rw", str(link), str(link)) == f"run as {who}: chmod o-rw {link}"  # chmod follows links
    assert advise("chown root", str(path), str(path)).startswith("run as root: chown root ")


@pytest.mark.needs("root")
def test_command_is_for_the_owner_and_not_for_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"")
    os.chown(path, 12345, 12345)
    with path.open() as file:
        assert advise("chmod o-rw", str(path), file.fileno()) == f"run as uid 12345: chmod o-rw {path}"


@pytest.mark.needs("root")
def test_no_command_is_given_for_a_read_only_file_system(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"")
    (tmp_path / "key.pem").chmod(0o644)
    directory = shlex.quote(str(tmp_path))
    mounted = f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory} && "
    read = shlex.join([sys.executable, "-c", READ_ONLY, str(tmp_path / "key.pem")])
    said = run_program(*mount_namespace(), "sh", "-c", f"{mounted}exec {read}").stdout
    assert "everyone can read this secret file" in said
    assert "its file system is read-only" in said
    assert "chmod" not in said


@pytest.mark.parametrize(("device", "kind"), [((8, 1), "vfat"), ((8, 2), "ext4"), ((8, 3), "")])
def test_type_of_the_file_system_is_found_by_device(device: tuple[int, int], kind: str) -> None:
    assert file_system_type(MOUNTS, os.makedev(*device)) == kind
