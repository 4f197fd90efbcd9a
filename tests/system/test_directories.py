"""The places where clients look for a daemon, and the place of an ordinary user's daemon."""

import os
from pathlib import Path

import pytest

from handshaked.system import directories

VARIABLES = (
    "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY", "HANDSHAKED_DIRECTORY",
    "HANDSHAKED_DEMUX_DIRECTORY", "HANDSHAKED_SOCKET", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
)  # fmt: skip
SOCKETS = {
    directories.handshake_socket: Path("handshaked/handshake.sock"),
    directories.control_socket: Path("handshaked/control.sock"),
    directories.demux_socket: Path("handshaked-demux/accept.sock"),
}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of an ordinary user without a login session."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("home")
def test_ordinary_user_finds_the_system_daemon() -> None:
    assert [find() for find in SOCKETS] == [Path("/run") / path for path in SOCKETS.values()]


@pytest.mark.usefixtures("home")
def test_client_in_a_service_ignores_its_own_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/caddy")
    assert [find() for find in SOCKETS] == [Path("/run") / path for path in SOCKETS.values()]


@pytest.mark.parametrize("session", [True, False])
def test_user_finds_their_own_daemon(monkeypatch: pytest.MonkeyPatch, home: Path, *, session: bool) -> None:
    if session:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    made = [
        directories.runtime_directory() / directories.HANDSHAKE_SOCKET,
        directories.runtime_directory() / directories.CONTROL_SOCKET,
        directories.demux_directory() / directories.DEMUX_SOCKET,
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # a socket's path may not be as long as that of a test's directory
    assert [find() for find in SOCKETS] == made


def test_daemon_in_tmp_is_not_trusted(home: Path) -> None:
    """Without $XDG_RUNTIME_DIR, sockets were in /tmp/run-UID, which another user could make first."""
    assert directories.runtime_directory().is_relative_to(home)
    assert directories.demux_directory().is_relative_to(home)


def test_variables_override_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDSHAKED_DIRECTORY", "/srv/handshaked")
    monkeypatch.setenv("HANDSHAKED_DEMUX_DIRECTORY", "/srv/demux")
    assert directories.handshake_socket() == Path("/srv/handshaked/handshake.sock")
    assert directories.control_socket() == Path("/srv/handshaked/control.sock")
    assert directories.demux_socket() == Path("/srv/demux/accept.sock")


def test_named_handshake_socket_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDSHAKED_SOCKET", "/srv/named.sock")
    monkeypatch.setenv("HANDSHAKED_DIRECTORY", "/srv/handshaked")
    assert directories.handshake_socket() == Path("/srv/named.sock")
    assert directories.control_socket() == Path("/srv/handshaked/control.sock")


def test_empty_variables_are_unset(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert [find() for find in SOCKETS] == [Path("/run") / path for path in SOCKETS.values()]
    monkeypatch.setenv("RUNTIME_DIRECTORY", ":/run/second")
    assert directories.runtime_directory() == home / ".local/state/handshaked"


def test_relative_base_directories_are_ignored(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """As the XDG Base Directory Specification requires: another user may own the working directory."""
    for name in ("handshaked", ".local/state/handshaked"):
        (home / name).mkdir(parents=True)
        (home / name / directories.HANDSHAKE_SOCKET).touch()
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert directories.handshake_socket() == home / ".local/state/handshaked/handshake.sock"
    assert directories.runtime_directory() == home / ".local/state/handshaked"


@pytest.mark.usefixtures("home")
def test_unreadable_directories_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + 300 * "x")  # ENAMETOOLONG, as it is EACCES for that of another user
    assert directories.control_socket() == Path("/run/handshaked/control.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.delenv("HOME")
    assert directories.control_socket() == Path("/run/handshaked/control.sock")


def test_root_daemon_uses_the_system_directories(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories.state_directory() == Path("/var/lib/handshaked")
    assert directories.runtime_directory() == Path("/run/handshaked")
    assert directories.configuration_directory() == Path("/etc/handshaked")
    assert directories.demux_directory() == Path("/run/handshaked-demux")


@pytest.mark.usefixtures("home")
def test_daemon_uses_the_directories_set_by_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/first:/run/second")
    assert directories.runtime_directory() == Path("/run/first")
    assert directories.demux_directory() == Path("/run/first")
