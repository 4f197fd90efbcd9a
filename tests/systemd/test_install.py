"""``install-systemd`` and ``uninstall-systemd``, below a directory in place of the root."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from handshaked.cli.install import closed_directories
from tests.patience import run_program

PROGRAM = Path(sys.executable).with_name("handshakectl")
CHECKOUT = Path(__file__).parents[2]


def run(command: str, root: Path) -> subprocess.CompletedProcess[str]:
    return run_program(str(PROGRAM), command, f"--root={root}", check=False)


def files_below(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if not path.is_dir())


def test_uninstall_removes_what_install_placed(tmp_path: Path) -> None:
    settings = tmp_path / "etc/handshaked/handshaked.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("")
    assert run("install-systemd", tmp_path).returncode == 0
    placed = files_below(tmp_path)
    service = (tmp_path / "usr/local/lib/systemd/system/handshaked.service").read_text()
    assert f"ExecStart={PROGRAM.parent.resolve()}/handshaked " in service
    assert "/usr/bin/handshake" not in service
    for shipped in (CHECKOUT / "systemd").iterdir():
        assert any(path.name in (shipped.name, "handshaked.conf") for path in placed), shipped
    assert run("install-systemd", tmp_path).returncode == 0
    assert files_below(tmp_path) == placed
    assert run("uninstall-systemd", tmp_path).returncode == 0
    assert files_below(tmp_path) == [settings.relative_to(tmp_path)]


def test_changed_files_are_kept(tmp_path: Path) -> None:
    run("install-systemd", tmp_path)
    unit = tmp_path / "usr/local/lib/systemd/system/handshaked.service"
    unit.write_text("mine")
    process = run("uninstall-systemd", tmp_path)
    assert process.returncode == 1
    assert f"{unit} was changed" in process.stderr
    assert files_below(tmp_path) == [unit.relative_to(tmp_path)]


def test_existing_empty_directories_are_kept(tmp_path: Path) -> None:
    """Debian ships these two directories empty, the second as the target of a link."""
    for name in ("usr/local/share/zsh/site-functions", "usr/local/share/man"):
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    run("install-systemd", tmp_path)
    run("install-systemd", tmp_path)  # finds the directories made by the first one
    assert run("uninstall-systemd", tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_upgrade_removes_files_of_the_previous_version(tmp_path: Path) -> None:
    run("install-systemd", tmp_path)
    placed = files_below(tmp_path)
    old, changed = tmp_path / "usr/local/lib/old/handshaked.socket", tmp_path / "etc/dbus-1/system.d/old.conf"
    old.parent.mkdir()
    manifest = tmp_path / "usr/local/share/handshaked/installed.json"
    written = json.loads(manifest.read_text())
    for path in (old, changed):
        path.write_text("old")
        written["files"][str(path.relative_to(tmp_path))] = hashlib.sha256(b"old").hexdigest()
    manifest.write_text(json.dumps(written))
    changed.write_text("changed")
    assert run("install-systemd", tmp_path).returncode == 0
    assert files_below(tmp_path) == sorted([*placed, changed.relative_to(tmp_path)])


def test_directories_closed_to_users_are_detected(tmp_path: Path) -> None:
    program = tmp_path / "pyenv/bin/python3"
    program.parent.mkdir(parents=True)
    program.touch()
    above = closed_directories(tmp_path)
    assert closed_directories(program) == above
    (tmp_path / "pyenv").chmod(0o700)
    assert closed_directories(program) == [tmp_path / "pyenv", *above]


def test_missing_permission_is_an_error_without_traceback() -> None:
    process = run("install-systemd", Path("/sys/nowhere"))
    assert process.returncode == 1
    assert process.stderr.startswith("handshakectl: /sys/nowhere")
    assert "not permitted" in process.stderr or "Permission denied" in process.stderr
    assert "Traceback" not in process.stderr


def test_uninstall_without_manifest_is_an_error(tmp_path: Path) -> None:
    process = run("uninstall-systemd", tmp_path)
    assert process.returncode == 1
    assert "installed.json does not exist" in process.stderr
