"""``install-systemd`` and ``uninstall-systemd``: the files for systemd, D-Bus, polkit, shells and man."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Self

from handshaked.cli.completion import script
from handshaked.cli.manual import page
from handshaked.cli.parser import PAGES, command_line
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
    """Run ``install-systemd``."""
    root: Path = arguments.root
    programs = _programs()
    # Below another root, whoever boots that root is responsible for the programs.
    if root == Path("/"):
        _check_reach(programs)
    before = _Manifest.read(root)
    manifest = _Manifest(directories=before.directories)
    for path, content in contents(programs).items():
        _make_directories(root, path, manifest.directories)
        manifest.files[str(path)] = _write(root, path, content)
    for name in before.files.keys() - manifest.files.keys():  # installed by another version
        _remove(root, name, before)
    manifest.write(root)
    print(f"installed {len(manifest.files)} files")
    _apply(root)
    if _under_systemd(root):
        if arguments.now:
            _run("systemctl", "enable", "--now", *_UNITS)
        else:
            print(f"to start the daemon: systemctl enable --now {' '.join(_UNITS)}")
    return 0


def uninstall(arguments: argparse.Namespace) -> int:
    """Run ``uninstall-systemd``; return 1 if files stay because they were changed after their installation."""
    root: Path = arguments.root
    manifest = _Manifest.read(root)
    if not manifest.files:
        raise RefusedError(f"{root / _MANIFEST} does not exist: install-systemd has installed nothing")
    if arguments.now and _under_systemd(root):
        _run("systemctl", "disable", "--now", *(unit.name for unit in _shipped() if _is_unit(unit.name)))
    changed = [name for name in manifest.files if not _remove(root, name, manifest)]
    (root / _MANIFEST).unlink()
    for name in sorted(manifest.directories, key=len, reverse=True):
        if (root / name).is_dir() and not any((root / name).iterdir()):
            (root / name).rmdir()
    for name in changed:
        print(f"handshakectl: {root / name} was changed after its installation, and stays", file=sys.stderr)
    print("removed; /etc/handshaked, /var/lib/handshaked and the users of the services stay")
    _apply(root)
    return 1 if changed else 0


@dataclass(slots=True)
class _Manifest:
    """Files installed below the root, with their digests, and ``directories`` that did not exist before."""

    files: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> Self:
        """Return the manifest of an earlier installation, or an empty one."""
        try:
            return cls(**json.loads((root / _MANIFEST).read_bytes()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise RefusedError(f"{root / _MANIFEST} cannot be read: {error}") from None

    def write(self, root: Path) -> None:
        """Store the manifest for uninstall-systemd."""
        _make_directories(root, _MANIFEST, self.directories)  # before it is written, so that they are in it
        _write(root, _MANIFEST, json.dumps(asdict(self), indent=1).encode())


def _programs() -> Path:
    """Return the directory of this program, which must hold ``handshaked`` too."""
    programs = Path(sys.argv[0]).resolve().parent
    if not (programs / "handshaked").exists():
        programs = Path(sys.executable).parent
    if not (programs / "handshaked").exists():
        raise RefusedError(f"handshaked is missing from {programs}: install the whole package")
    return programs


def _check_reach(programs: Path) -> None:
    """Check that the service and ordinary users can reach `programs` and the Python that runs them."""
    for place in (programs, Path(sys.executable).resolve()):
        if any(place.is_relative_to(hidden) for hidden in _HIDDEN):
            raise RefusedError(
                f"{place} is hidden from the service by PrivateTmp=: install elsewhere,"
                " for example: python3 -m venv /opt/handshaked && /opt/handshaked/bin/pip install handshaked"
            )
        for directory in closed_directories(place):
            print(
                f"handshakectl: warning: {place} is below {directory}, which only its owner can enter: ordinary users"
                " cannot run handshakectl, and the demultiplexer cannot run; use a Python that every user can reach,"
                " for example: /usr/bin/python3 -m venv /opt/handshaked",
                file=sys.stderr,
            )


def closed_directories(path: Path) -> list[Path]:
    """Return `path` and its parents that not every user may enter."""
    return [directory for directory in (path, *path.parents) if directory.is_dir() and not directory.stat().st_mode & 1]


def contents(programs: Path) -> dict[Path, bytes]:
    """Return the content of all files by their path below the root, for programs in the directory `programs`."""
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


def _is_unit(name: str) -> bool:
    return _place(name).parent == _PLACES[".service"]


def _make_directories(root: Path, path: Path, made: list[str]) -> None:
    """Create the parents of the file `path` below `root`, and add those that did not exist to `made`."""
    made += [str(parent) for parent in path.parents if not (root / parent).exists()]
    (root / path).parent.mkdir(parents=True, exist_ok=True)


def _write(root: Path, path: Path, content: bytes) -> str:
    """Write the file `path` below `root` and return the SHA-256 digest of `content`."""
    target = root / path
    new = target.with_name(f".{target.name}.new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.replace(target)
    return hashlib.sha256(content).hexdigest()


def _remove(root: Path, name: str, manifest: _Manifest) -> bool:
    """Remove a file of `manifest` and return True; keep it and return False if it was changed."""
    path = root / name
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != manifest.files[name]:
        return False
    path.unlink(missing_ok=True)
    return True


def _under_systemd(root: Path) -> bool:
    return root == Path("/") and Path("/run/systemd/system").exists()


def _apply(root: Path) -> None:
    """Make systemd and D-Bus read their files again."""
    if _under_systemd(root):
        _run("systemd-sysusers")
        _run("systemd-tmpfiles", "--create")
        _run("systemctl", "daemon-reload")
        _run("systemctl", "reload", "dbus.service")


def _run(*command: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        return
    process = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, env=os.environ)  # noqa: S603 - systemd's own programs
    if process.returncode != 0:
        print(f"handshakectl: {' '.join(command)}: {process.stderr.strip()}", file=sys.stderr)
