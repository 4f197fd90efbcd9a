"""``install-systemd`` and its reverse, below a directory instead of the root."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from handshaked.cli.completion import script
from handshaked.cli.install import closed_directories
from handshaked.cli.manual import PAGES, page
from handshaked.cli.parser import SHELLS, command_line
from tests.patience import BUILD_PATIENCE, run_program
from tests.plugins.needs import need

PROGRAM = Path(sys.executable).with_name("handshakectl")
CHECKOUT = Path(__file__).parents[2]


def run(command: str, root: Path) -> subprocess.CompletedProcess[str]:
    return run_program(str(PROGRAM), command, f"--root={root}", check=False)


def files_below(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if not path.is_dir())


def test_all_is_put_in_place_and_taken_away(tmp_path: Path) -> None:
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


def test_what_was_changed_stays(tmp_path: Path) -> None:
    run("install-systemd", tmp_path)
    unit = tmp_path / "usr/local/lib/systemd/system/handshaked.service"
    unit.write_text("mine")
    process = run("uninstall-systemd", tmp_path)
    assert process.returncode == 1
    assert f"{unit} was changed" in process.stderr
    assert files_below(tmp_path) == [unit.relative_to(tmp_path)]


def test_empty_directories_of_others_were_taken_away(tmp_path: Path) -> None:
    """Debian ships these two empty, the second as the target of a link."""
    for name in ("usr/local/share/zsh/site-functions", "usr/local/share/man"):
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    run("install-systemd", tmp_path)
    run("install-systemd", tmp_path)  # which finds the directories that the first made
    assert run("uninstall-systemd", tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_an_upgrade_left_the_files_of_the_version_before(tmp_path: Path) -> None:
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


def test_programs_that_only_root_can_reach_are_noticed(tmp_path: Path) -> None:
    program = tmp_path / "pyenv/bin/python3"
    program.parent.mkdir(parents=True)
    program.touch()
    above = closed_directories(tmp_path)
    assert closed_directories(program) == above
    (tmp_path / "pyenv").chmod(0o700)
    assert closed_directories(program) == [tmp_path / "pyenv", *above]


def test_who_may_not_write_there_got_a_traceback() -> None:
    process = run("install-systemd", Path("/sys/nowhere"))
    assert process.returncode == 1
    assert process.stderr.startswith("handshakectl: /sys/nowhere")
    assert "not permitted" in process.stderr or "Permission denied" in process.stderr
    assert "Traceback" not in process.stderr


def test_nothing_to_take_away_is_said(tmp_path: Path) -> None:
    process = run("uninstall-systemd", tmp_path)
    assert process.returncode == 1
    assert "installed.json does not exist" in process.stderr


@pytest.mark.slow
def test_the_source_distribution_lacks_no_file_and_makes_the_wheel(tmp_path: Path) -> None:
    """As a release is made: from a copy of what is checked in."""
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
    [wheel] = tmp_path.glob("*.whl")  # which was made out of the source distribution
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked if name.startswith("handshaked/")} <= names


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_name_every_command_and_option(shell: str) -> None:
    parser = command_line()
    text = script(shell, parser)
    for name, sub in parser.commands.items():
        assert name in text
        for action in sub.arguments:
            if action.option_strings:
                assert action.option_strings[-1].removeprefix("--") in text


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_are_scripts_of_their_shell(shell: str) -> None:
    need(shell)
    run_program(shell, "-n", input=script(shell, command_line()))


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(script("bash", command_line()))
    ask = (
        "source completion; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _handshakectl;"
        ' printf "%s\\n" "${{COMPREPLY[@]}}"'
    )

    def completed(words: str) -> list[str]:
        process = run_program("bash", "-c", ask.format(words), cwd=tmp_path)
        return process.stdout.split()

    assert completed("handshakectl unr") == ["unregister"]
    assert completed("handshakectl monitor --fa") == ["--failed"]
    assert completed("handshakectl monitor --role s") == ["server"]
    assert completed("handshakectl completion z") == ["zsh"]
    assert completed("handshakectl register --cert comp") == ["completion"]


@pytest.mark.parametrize("name", PAGES)
def test_manual_pages_say_what_help_says(name: str) -> None:
    text = page(name)
    parser = command_line()
    if name == "handshakectl.1":
        for sub in parser.commands.values():
            assert (sub.description or "").replace("-", "\\-") in text


@pytest.mark.needs("man")
@pytest.mark.parametrize("name", PAGES)
def test_man_formats_manual_pages_without_warning(name: str) -> None:
    process = run_program("man", "--warnings", "-l", "-", input=page(name), env={"LC_ALL": "C.UTF-8"})
    assert process.stderr == ""
    assert "handshaked" in process.stdout
    assert "%(" not in process.stdout  # a default that --help fills in
