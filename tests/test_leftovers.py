"""Find processes, directories, mounts and network namespaces that a run leaves behind."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from handshaked.testing.processes import ending
from tests.patience import PATIENCE
from tests.plugins import leftovers


@pytest.fixture
def name() -> str:
    """The name of another run."""
    return f"test{os.urandom(4).hex()}"


def test_clean_run_leaves_nothing(name: str) -> None:
    assert leftovers.leftovers(name) == []


def test_process_is_found_and_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_PATIENCE", 0.0)
    with ending(subprocess.Popen(["sleep", "600"], env={**os.environ, "HANDSHAKED_TEST_RUN": name})) as process:
        assert leftovers.leftovers(name) == [f"process {process.pid}: sleep 600"]
        assert process.wait(PATIENCE) == -9


def test_directory_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"handshaked-{name}-abc"
    left.mkdir()
    assert leftovers.leftovers(name) == [f"directory: {left}"]


@pytest.mark.needs("root")
def test_mount_is_found(name: str, tmp_path: Path) -> None:
    left = tmp_path / f"handshaked-{name}-abc"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", left], check=True, timeout=PATIENCE)
    try:
        assert leftovers.leftovers(name) == [f"mount: {left}"]
    finally:
        subprocess.run(["umount", left], check=True, timeout=PATIENCE)
