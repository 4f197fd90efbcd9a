"""Where the daemon keeps its state and its sockets: as systemd says, else by who runs it."""

import os
from pathlib import Path

HANDSHAKE_SOCKET = "handshake.sock"
CONTROL_SOCKET = "control.sock"
DATABASE = "registry.db"
REPLAY_RECORD = "used-tickets.db"
DROP_INS = "registrations.d"
DEMUX_SOCKET = "accept.sock"


def state_directory() -> Path:
    """``$STATE_DIRECTORY``, else /var/lib/handshaked for root, else below ``$XDG_STATE_HOME``."""
    return _directory("STATE_DIRECTORY", "/var/lib", os.environ.get("XDG_STATE_HOME") or "~/.local/state")


def runtime_directory() -> Path:
    """``$RUNTIME_DIRECTORY``, else /run/handshaked for root, else below ``$XDG_RUNTIME_DIR``."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime())


def demux_runtime_directory() -> Path:
    """``$RUNTIME_DIRECTORY``, else /run/handshaked-demux for root, else below ``$XDG_RUNTIME_DIR``."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), "handshaked-demux")


def configuration_directory() -> Path:
    """``$CONFIGURATION_DIRECTORY``, else /etc/handshaked for root, else below ``$XDG_CONFIG_HOME``."""
    return _directory("CONFIGURATION_DIRECTORY", "/etc", os.environ.get("XDG_CONFIG_HOME") or "~/.config")


def daemon_directory() -> Path:
    """Where callers find the daemon: ``$HANDSHAKED_DIRECTORY``, else the user's own daemon if there is one, else /run.

    The ``$RUNTIME_DIRECTORY`` of a caller that is a service is its own.
    """
    return _found("HANDSHAKED_DIRECTORY", "handshaked", HANDSHAKE_SOCKET)


def demux_directory() -> Path:
    """Where applications find the demultiplexer: ``$HANDSHAKED_DEMUX_DIRECTORY``, else as above."""
    return _found("HANDSHAKED_DEMUX_DIRECTORY", "handshaked-demux", DEMUX_SOCKET)


def _user_runtime() -> str:
    # Not below /tmp, where anyone may be first to make a directory of that name and hear what is asked.
    return os.environ.get("XDG_RUNTIME_DIR") or "~/.local/run"


def _directory(variable: str, system: str, user: str, name: str = "handshaked") -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given.partition(":")[0])
    return Path(system if os.geteuid() == 0 else user).expanduser() / name


def _found(variable: str, name: str, listening: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given)
    # These two take a user who has no home, or may not look there, for one without a daemon.
    own = Path(os.path.expanduser(_user_runtime()), name)
    if os.geteuid() != 0 and own.is_absolute() and os.path.exists(own / listening):
        return own
    return Path("/run", name)
