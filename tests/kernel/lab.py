"""Boots Debian 13's User-Mode Linux with the project installed, and runs a program of ``inside/`` in it as root.

What takes long is prepared once and cached below ``$XDG_CACHE_HOME/handshaked``: a root file system made by
debootstrap, with the project's dependencies, and on top of it a layer with the project itself, one for each state of
its sources. Every boot gets a layer of its own that is thrown away; all of them are overlay mounts that only the
booting process sees.
"""

import fcntl
import hashlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_SUITE = "trixie"
_PYTHON = "3.13"
_PACKAGES = (
    "ca-certificates", "iproute2", "iptables", "procps", "kmod", "openssl", "keyutils", "strace",
    "python3", "python3-venv", "user-mode-linux", "nfs-common", "nfs-kernel-server", "ktls-utils", "nvme-cli",
    "systemd", "dbus",
)  # fmt: skip
_BOOT_SECONDS = 420
_SYSTEMD = (
    "init=/usr/lib/systemd/systemd selinux=0 systemd.run=/lab/init.sh systemd.run_success_action=poweroff-force"
    " systemd.run_failure_action=poweroff-force"
)


class LabError(RuntimeError):
    """The laboratory could not be prepared."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a program in the lab ended, and all that it printed."""

    status: int
    output: str
    cpu_seconds: float


def boot(program: str, *arguments: str, memory: str = "1G", systemd: bool = False) -> Result:
    """Run the Python module `program` of ``inside/`` in a kernel of its own; with `systemd` that is PID 1 in it."""
    root = _base()
    project = _project_layer(root)
    with tempfile.TemporaryDirectory(prefix="handshaked-lab-", ignore_cleanup_errors=True) as name:
        layer = Path(name)
        lab = layer / "upper" / "lab"
        shutil.copytree(_HERE / "inside", lab / "tests" / "kernel" / "inside")
        shutil.copy(_HERE / "init.sh", lab)
        (lab / "arguments").write_text(shlex.join(arguments))
        init = _SYSTEMD if systemd else "init=/lab/init.sh"
        command = (
            f"chroot {layer}/merged linux.uml mem={memory} rootfstype=hostfs rootflags=/ rw"
            f" {init} lab_program={program} con=null con0=fd:0,fd:1 quiet; exit $?"
        )
        before = _cpu_seconds()
        console = _in_overlay(layer, (project, root), command, timeout=_BOOT_SECONDS)
        cpu_seconds = _cpu_seconds() - before
        said = [path.read_text(errors="replace") for path in (lab / "err", lab / "out") if path.exists()]
        output = "\n".join(said)
        try:
            return Result(int((lab / "rc").read_text()), output, cpu_seconds)
        except (FileNotFoundError, ValueError):
            return Result(125, f"{output}\nthe kernel ended early:\n{console}", cpu_seconds)


def _cpu_seconds() -> float:
    """What all processes that this one started and saw the end of took, user and system."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _base() -> Path:
    """The root file system, made if it is not there yet."""
    dependencies = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    directory = _cache() / f"lab-{_digest(_SUITE, _PYTHON, *_PACKAGES, *dependencies)}"
    with _locked(directory):
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
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "debootstrap")
    mirror = os.environ.get("HANDSHAKED_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    _run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root), mirror)
    (version,) = (root / "usr/lib/uml/modules").iterdir()
    (root / "lib/modules").mkdir(exist_ok=True)
    (root / "lib/modules" / version.name).symlink_to(f"/usr/lib/uml/modules/{version.name}")
    _run("chroot", str(root), "depmod", version.name)


def _install_dependencies(root: Path, wheels: Path, dependencies: list[str]) -> None:
    """Inside there is no network, and another Python than here: the wheels are fetched here, for that one."""
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", f"--dest={wheels}",
        "--only-binary=:all:", f"--python-version={_PYTHON}", "--implementation=cp",
        *(f"--platform=manylinux_{version}_x86_64" for version in ("2_17", "2_28", "2_34")),
        "--platform=manylinux2014_x86_64", *dependencies,
    )  # fmt: skip
    shutil.copytree(wheels, root / "wheels")
    _run("chroot", str(root), "python3", "-m", "venv", "/opt/handshaked")
    _run(
        "chroot", str(root), "/opt/handshaked/bin/pip", "install", "--quiet", "--no-index", "--find-links=/wheels",
        *dependencies,
    )  # fmt: skip
    shutil.rmtree(root / "wheels")


def _project_layer(root: Path) -> Path:
    """The files that installing this checkout adds to `root`."""
    shipped = [*CHECKOUT.glob("handshaked/**/*.py"), *CHECKOUT.glob("handshaked/systemd_files/*")]
    sources = sorted([*shipped, CHECKOUT / "pyproject.toml"])
    digest = _digest(*(f"{path.relative_to(CHECKOUT)}\0{path.read_text()}" for path in sources))
    directory = root.parent / f"project-{digest}"
    with _locked(directory):
        if directory.exists():
            return directory / "upper"
        for old in sorted(root.parent.glob("project-*[0-9a-f]"), key=lambda path: path.stat().st_mtime)[:-8]:
            shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as name:
            layer = Path(name)
            wheels = layer / "upper" / "wheels"
            wheels.mkdir(parents=True)
            _run(
                sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
                f"--wheel-dir={wheels}", str(CHECKOUT),
            )  # fmt: skip
            install = "pip install --quiet --no-index --no-deps --force-reinstall /wheels/*.whl"
            compile_all = "python -m compileall -q /opt/handshaked/lib/python3*/site-packages/handshaked"
            command = f"PATH=/opt/handshaked/bin:$PATH chroot {layer}/merged bash -c '{install} && {compile_all}'"
            _in_overlay(layer, (root,), command, timeout=_BOOT_SECONDS, check=True)
            shutil.rmtree(wheels)
            directory.mkdir()
            (layer / "upper").rename(directory / "upper")
        return directory / "upper"


def _in_overlay(layer: Path, lower: tuple[Path, ...], command: str, *, timeout: float, check: bool = False) -> str:
    """Run the shell command with `layer`/merged mounted out of `lower` and `layer`/upper; what it printed."""
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
        raise LabError(f"{command}:\n{output}")
    return output


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "handshaked"


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env=environment,
    )  # fmt: skip
    if process.returncode != 0:
        raise LabError(f"{' '.join(command)}:\n{process.stdout.decode(errors='replace')[-4000:]}")
