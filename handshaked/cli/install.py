"""``install-systemd`` and its reverse: puts the files that belong to systemd, D-Bus and shells in place."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from handshaked.cli.completion import script
from handshaked.cli.manual import PAGES, page
from handshaked.errors import RefusedError

_LIB, _SHARE = Path("usr/local/lib"), Path("usr/local/share")
_PLACES = {
    ".service": _LIB / "systemd/system",
    ".socket": _LIB / "systemd/system",
    "sysusers.conf": _LIB / "sysusers.d/handshaked.conf",
    "tmpfiles.conf": _LIB / "tmpfiles.d/handshaked.conf",
    "org.handshaked.Handshaked1.conf": Path("etc/dbus-1/system.d/org.handshaked.Handshaked1.conf"),
    "org.handshaked.Handshaked1.service": _SHARE / "dbus-1/system-services/org.handshaked.Handshaked1.service",
    "org.handshaked.Handshaked1.xml": _SHARE / "dbus-1/interfaces/org.handshaked.Handshaked1.xml",
    "org.handshaked.policy": Path("usr/share/polkit-1/actions/org.handshaked.policy"),
}
_COMPLETIONS = {
    "bash": _SHARE / "bash-completion/completions/handshakectl",
    "zsh": _SHARE / "zsh/site-functions/_handshakectl",
    "fish": _SHARE / "fish/vendor_completions.d/handshakectl.fish",
}
_MANIFEST = _SHARE / "handshaked/installed.json"
_UNITS = ("handshaked.socket", "handshaked.service")
_HIDDEN = ("/tmp", "/var/tmp")  # noqa: S108 - named, not written to


def install(arguments: argparse.Namespace) -> int:
    """``install-systemd``."""
    root: Path = arguments.root
    programs = Path(sys.argv[0]).resolve().parent
    if not (programs / "handshaked").exists():
        programs = Path(sys.executable).parent
    if not (programs / "handshaked").exists():
        raise RefusedError(f"there is no handshaked beside handshakectl in {programs}")
    # Below another root it is for whoever boots that root to have the programs where they are said to be.
    if root == Path("/") and any(programs.is_relative_to(hidden) for hidden in _HIDDEN):
        raise RefusedError(
            f"{programs} cannot be seen by the service, which has PrivateTmp=: install elsewhere,"
            " e.g. python3 -m venv /opt/handshaked && /opt/handshaked/bin/pip install handshaked"
        )
    written = {}
    for path, content in contents(programs).items():
        written[str(path)] = _write(root / path, content)
    _write(root / _MANIFEST, json.dumps(written, indent=1).encode())
    print(f"{len(written)} files are in place")
    _apply(root, start=arguments.now)
    return 0


def uninstall(arguments: argparse.Namespace) -> int:
    """``uninstall-systemd``: exit code 1 if a file was changed since, and stays."""
    root: Path = arguments.root
    try:
        written = json.loads((root / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise RefusedError(f"{root / _MANIFEST} cannot be read: nothing was installed by install-systemd") from None
    if arguments.now and root == Path("/"):
        _run("systemctl", "disable", "--now", *_UNITS)
    changed = []
    for name, digest in written.items():
        path = root / name
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            changed.append(name)
            continue
        path.unlink(missing_ok=True)
        _remove_empty(path.parent, root)
    (root / _MANIFEST).unlink()
    _remove_empty((root / _MANIFEST).parent, root)
    for name in changed:
        print(f"handshakectl: {root / name} was changed since it was installed, and stays", file=sys.stderr)
    print("taken away; /etc/handshaked and /var/lib/handshaked stay")
    _apply(root, start=False)
    return 1 if changed else 0


def contents(programs: Path) -> dict[Path, bytes]:
    """All files by where they belong, below the root; the programs lie in `programs`."""
    # Only here: the parser imports the commands, this one among them.
    from handshaked.cli.parser import command_line

    found: dict[Path, bytes] = {}
    for source in _shipped():
        text = source.read_text().replace("/usr/bin/handshake", f"{programs}/handshake")
        found[_place(source.name)] = text.encode()
    parser = command_line()
    for shell, path in _COMPLETIONS.items():
        found[path] = script(shell, parser).encode()
    for name in PAGES:
        found[_SHARE / f"man/man{name[-1]}" / name] = page(name).encode()
    return found


def _shipped() -> list[Traversable]:
    return sorted(files("handshaked").joinpath("systemd_files").iterdir(), key=lambda one: one.name)


def _place(name: str) -> Path:
    if name in _PLACES:
        return _PLACES[name]
    return _PLACES[Path(name).suffix] / name


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.replace(path)
    return hashlib.sha256(content).hexdigest()


def _remove_empty(directory: Path, root: Path) -> None:
    kept = {root, root / "etc", root / "usr", root / "usr/local", root / "usr/share"}
    while directory not in kept and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


def _apply(root: Path, *, start: bool) -> None:
    if root != Path("/") or not Path("/run/systemd/system").exists():
        return
    _run("systemd-sysusers")
    _run("systemd-tmpfiles", "--create")
    _run("systemctl", "daemon-reload")
    _run("systemctl", "reload", "dbus.service")
    if start:
        _run("systemctl", "enable", "--now", *_UNITS)
    else:
        print("to start it: systemctl enable --now handshaked.socket handshaked.service")


def _run(*command: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        return
    process = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, env=os.environ)  # noqa: S603 - systemd's own programs
    if process.returncode != 0:
        print(f"handshakectl: {' '.join(command)}: {process.stderr.strip()}", file=sys.stderr)
