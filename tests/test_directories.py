"""Where a daemon has its things, and where its callers find them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked import directories

VARIABLES = (
    "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY", "HANDSHAKED_DIRECTORY",
    "HANDSHAKED_DEMUX_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
)  # fmt: skip

BecomeUser = Callable[[int], Path]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BecomeUser:
    """Takes on a user with a home and nothing else in the environment; the home."""

    def user(uid: int) -> Path:
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        return tmp_path

    return user


def test_a_daemon_of_root_is_where_the_system_has_such_things(become: BecomeUser) -> None:
    become(0)
    assert directories.state_directory() == Path("/var/lib/handshaked")
    assert directories.runtime_directory() == Path("/run/handshaked")
    assert directories.configuration_directory() == Path("/etc/handshaked")
    assert directories.demux_runtime_directory() == Path("/run/handshaked-demux")


def test_a_daemon_of_a_user_is_in_the_users_own_directories(become: BecomeUser) -> None:
    home = become(1000)
    assert directories.state_directory() == home / ".local/state/handshaked"
    assert directories.configuration_directory() == home / ".config/handshaked"
    # Not below /tmp: who makes a directory there first hears what is asked.
    assert directories.runtime_directory() == home / ".local/run/handshaked"


def test_systemd_says_where_a_daemon_is(become: BecomeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    become(0)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/first:/run/second")
    assert directories.runtime_directory() == Path("/run/first")
    assert directories.demux_runtime_directory() == Path("/run/first")


@pytest.mark.parametrize("uid", [0, 1000])
def test_callers_find_the_daemon_of_the_system(become: BecomeUser, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    become(uid)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/smbd")  # that of the calling service
    assert directories.daemon_directory() == Path("/run/handshaked")
    assert directories.demux_directory() == Path("/run/handshaked-demux")


def test_callers_of_a_user_who_runs_a_daemon_find_that_one(become: BecomeUser) -> None:
    own = become(1000) / ".local/run/handshaked"
    own.mkdir(parents=True)
    (own / directories.HANDSHAKE_SOCKET).touch()
    assert directories.daemon_directory() == own
    assert directories.demux_directory() == Path("/run/handshaked-demux")
    become(0)
    assert directories.daemon_directory() == Path("/run/handshaked")


def test_callers_can_be_told_where_the_daemon_is(become: BecomeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    become(1000)
    monkeypatch.setenv("HANDSHAKED_DIRECTORY", "/srv/daemon")
    monkeypatch.setenv("HANDSHAKED_DEMUX_DIRECTORY", "/srv/demux")
    assert directories.daemon_directory() == Path("/srv/daemon")
    assert directories.demux_directory() == Path("/srv/demux")


def test_a_caller_without_a_home_finds_the_daemon_of_the_system(
    become: BecomeUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(54321)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # whose home is looked up
    assert directories.daemon_directory() == Path("/run/handshaked")
