"""Needs of tests: the only place that skips a test, and the closing line about missing programs.

`@pytest.mark.needs("gtlsclient", "root")` on a test, or `need("gtlsclient")` in a fixture.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from handshaked.handshakes import keyring

PROGRAMS = dict(
    line.split()
    for line in (Path(__file__).parents[1] / "programs.txt").read_text().splitlines()
    if not line.startswith("#")
)
"""Debian packages by the program that tests run."""
_MISSING = "missing: "
_PATIENCE = 30.0
_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h


def need(*names: str) -> None:
    """Skip the test unless the machine has everything in `names`: programs, or resources of `RESOURCES`."""
    for name in names:
        if not _is_there(name):
            pytest.skip(_MISSING + name)


def mount_namespace() -> list[str]:
    """Return the words that run a command in a mount namespace of its own, where it may mount."""
    return ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def public_python() -> str | None:
    """Return a Python of this version that every user can run, None without one or if the checkout is closed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable).resolve(), Path("/usr/bin", version)):
        if candidate.exists() and _is_public(candidate) and _is_public(Path(__file__).parent):
            return str(candidate)
    return None


def _is_public(path: Path) -> bool:
    return all(one.stat().st_mode & 0o001 for one in (path, *path.parents))


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE).returncode == 0


def _has_keyrings() -> bool:
    try:
        keyring.add_key("user", "handshaked test", b"x", keyring.PROCESS_KEYRING)
    except OSError:
        return False
    return True


def _has_passrights() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


RESOURCES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "SO_PASSRIGHTS (Linux 6.16)": _has_passrights,
    "keyrings": _has_keyrings,
    "mount namespaces": lambda: _succeeds(*mount_namespace(), "true"),
    "network namespaces": lambda: _succeeds("unshare", "--mount", "--net", "true"),
    "public python": lambda: public_python() is not None,
    "x86-64": lambda: platform.machine() == "x86_64",
}


def _is_there(name: str) -> bool:
    if name in RESOURCES:
        return _has_resource(name)
    assert name in PROGRAMS, f"{name} is neither in programs.txt nor in RESOURCES"
    return shutil.which(name) is not None


@cache
def _has_resource(name: str) -> bool:
    return RESOURCES[name]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marks ask for what is missing, before its fixtures are made."""
    for mark in item.iter_markers("needs"):
        need(*mark.args)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Close with one line that says what is missing, how many tests that cost, and how to install it."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # in a worker of xdist
        return
    reasons = [str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])]
    line = summary(Counter(reason.partition(_MISSING)[2] for reason in reasons if _MISSING in reason))
    if line:
        reporter.write_line(line, yellow=True)


def summary(missing: Counter[str]) -> str:
    """Return the closing line for the number of skipped tests by what was missing; empty if nothing was."""
    if not missing:
        return ""
    costs = ", ".join(f"{name} ({count} test{'s' * (count > 1)})" for name, count in missing.most_common())
    packages = sorted({PROGRAMS[name] for name in missing if name in PROGRAMS})
    return f"missing: {costs}" + (f"; on Debian: apt-get install {' '.join(packages)}" if packages else "")
