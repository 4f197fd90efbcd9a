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


def configuration_directory() -> Path:
    """``$CONFIGURATION_DIRECTORY``, else /etc/handshaked for root, else below ``$XDG_CONFIG_HOME``."""
    return _directory("CONFIGURATION_DIRECTORY", "/etc", os.environ.get("XDG_CONFIG_HOME") or "~/.config")


def daemon_directory() -> Path:
    """As ``runtime_directory``, for other services: their ``$RUNTIME_DIRECTORY`` is their own."""
    return _directory("HANDSHAKED_DIRECTORY", "/run", _user_runtime())


def demux_directory() -> Path:
    """Where the demultiplexer has its socket: ``$RUNTIME_DIRECTORY``, else /run/handshaked-demux, else as above."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), "handshaked-demux")


def _user_runtime() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/run-{os.getuid()}"  # noqa: S108 - made with mode 0700 and checked by its maker


def _directory(variable: str, system: str, user: str, name: str = "handshaked") -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given.partition(":")[0])
    return Path(system if os.geteuid() == 0 else user).expanduser() / name
