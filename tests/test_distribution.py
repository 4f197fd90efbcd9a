"""The source distribution and the wheel."""

import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.patience import BUILD_PATIENCE, run_program

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.slow
def test_source_distribution_is_complete_and_builds_the_wheel(tmp_path: Path) -> None:
    """Build as for a release, from a copy of the checked-in files."""
    checkout = tmp_path / "checkout"
    listed = run_program("git", "ls-files", "-z", cwd=CHECKOUT)
    tracked = listed.stdout.rstrip("\0").split("\0")
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, checkout / name, follow_symlinks=False)
    run_program(sys.executable, "-m", "build", f"--outdir={tmp_path}", str(checkout), timeout=BUILD_PATIENCE)
    [source] = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if not (CHECKOUT / name).is_dir()} <= packed  # systemd/ is a link to a directory
    assert "systemd/handshaked.service" in packed
    [wheel] = tmp_path.glob("*.whl")  # built from the source distribution
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked if name.startswith("handshaked/")} <= names
