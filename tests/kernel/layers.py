"""The file systems of the lab's machines: cached layers that are overlaid at boot.

The cache below ``$XDG_CACHE_HOME/handshaked`` has a root file system made by debootstrap with the project's
dependencies, and layers that go on top of it: one with the project for each state of its sources, and others, such as
those of ``qemu``. Overlay mounts are visible only to the processes that run in them.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import BUILD_PATIENCE

CHECKOUT = Path(__file__).parents[2]
_SUITE = "trixie"
_PYTHON = "3.13"
_PACKAGES = (
    "ca-certificates", "iproute2", "iptables", "procps", "kmod", "openssl", "keyutils", "strace",
    "python3", "python3-venv", "user-mode-linux", "nfs-common", "nfs-kernel-server", "ktls-utils", "nvme-cli",
    "systemd", "dbus",
)  # fmt: skip
_PREPARATION_SECONDS = 600
_KEPT_LAYERS = 8
_UNUSED_SECONDS = 3600  # longer than any machine runs


class LabError(RuntimeError):
    """The lab could not be prepared."""


def base() -> Path:
    """Return the root file system, which is made first if needed."""
    dependencies = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    directory = _cache() / f"lab-{digest_of(_SUITE, _PYTHON, *_PACKAGES, *dependencies)}"
    with locked(directory):
        root = directory / "root"
        if root.exists():
            return root
        shutil.rmtree(directory, ignore_errors=True)
        new = directory / "new"
        new.mkdir(parents=True)
        _bootstrap(new)
        _install_dependencies(new, directory / "wheels", dependencies)
        new.rename(root)
        return root


def _bootstrap(root: Path) -> None:
    if shutil.which("debootstrap") is None:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "debootstrap")
    mirror = os.environ.get("HANDSHAKED_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root), mirror)
    (version,) = (root / "usr/lib/uml/modules").iterdir()
    (root / "lib/modules").mkdir(exist_ok=True)
    (root / "lib/modules" / version.name).symlink_to(f"/usr/lib/uml/modules/{version.name}")
    run("chroot", str(root), "depmod", version.name)


def _install_dependencies(root: Path, wheels: Path, dependencies: list[str]) -> None:
    """Install `dependencies` into `root`. The lab has no network: wheels for its Python are downloaded here."""
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", f"--dest={wheels}",
        "--only-binary=:all:", f"--python-version={_PYTHON}", "--implementation=cp",
        *(f"--platform=manylinux_{version}_x86_64" for version in ("2_17", "2_28", "2_34")),
        "--platform=manylinux2014_x86_64", *dependencies,
    )  # fmt: skip
    shutil.copytree(wheels, root / "wheels")
    run("chroot", str(root), "python3", "-m", "venv", "/opt/handshaked")
    run(
        "chroot", str(root), "/opt/handshaked/bin/pip", "install", "--quiet", "--no-index", "--find-links=/wheels",
        *dependencies,
    )  # fmt: skip
    shutil.rmtree(root / "wheels")


def project_layer(root: Path) -> Path:
    """Return the layer with the files that installing this checkout adds to `root`."""
    shipped = [*CHECKOUT.glob("handshaked/**/*.py"), *CHECKOUT.glob("handshaked/systemd_files/*")]
    sources = sorted([*shipped, CHECKOUT / "pyproject.toml"])
    digest = digest_of(*(f"{path.relative_to(CHECKOUT)}\0{path.read_text()}" for path in sources))
    directory = root.parent / f"project-{digest}"
    with locked(directory):
        if directory.exists():
            os.utime(directory)
            return directory / "upper"
        _remove_old_layers(root.parent)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as name:
            layer = Path(name)
            wheels = layer / "upper" / "wheels"
            wheels.mkdir(parents=True)
            run(
                sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
                f"--wheel-dir={wheels}", str(CHECKOUT),
            )  # fmt: skip
            install = "pip install --quiet --no-index --no-deps --force-reinstall /wheels/*.whl"
            compile_all = "python -m compileall -q /opt/handshaked/lib/python3*/site-packages/handshaked"
            command = f"PATH=/opt/handshaked/bin:$PATH chroot {layer}/merged bash -c '{install} && {compile_all}'"
            in_overlay(layer, (root,), command, timeout=_PREPARATION_SECONDS, check=True)
            shutil.rmtree(wheels)
            directory.mkdir()
            (layer / "upper").rename(directory / "upper")
        return directory / "upper"


def _remove_old_layers(cache: Path) -> None:
    """Remove old layers of the project, except recently used ones: a machine may be running on them."""
    with locked(cache / "old-layers"):
        layers = sorted((path.stat().st_mtime, path) for path in cache.glob("project-*[0-9a-f]"))
        for used, layer in layers[:-_KEPT_LAYERS]:
            if used < time.time() - _UNUSED_SECONDS:
                shutil.rmtree(layer, ignore_errors=True)


def in_overlay(layer: Path, lower: tuple[Path, ...], command: str, *, timeout: float, check: bool = False) -> str:
    """Run the shell command with `lower` and `layer`/upper overlaid on `layer`/merged. Return its output."""
    for name in ("upper", "work", "merged"):
        (layer / name).mkdir(exist_ok=True)
    merged = layer / "merged"
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={layer / 'upper'},workdir={layer / 'work'}"
    script = (
        f"set -e; mount -t overlay overlay -o {options} {merged}; mount -t proc proc {merged}/proc;"
        f" mount --rbind /dev {merged}/dev; {command}"
    )
    process = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "bash", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
    )  # fmt: skip
    output = process.stdout.decode(errors="replace")
    if check and process.returncode != 0:
        raise LabError(f"{command}:\n{output[-4000:]}")
    return output


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "handshaked"


def digest_of(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, so that only one process makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env=environment, timeout=BUILD_PATIENCE)  # fmt: skip
    if process.returncode != 0:
        raise LabError(f"{' '.join(command)}:\n{process.stdout.decode(errors='replace')[-4000:]}")


if __name__ == "__main__":
    project_layer(base())
