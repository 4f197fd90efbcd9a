"""Where the daemons keep their state and their sockets, and where their clients find them.

A daemon's directories are as systemd says, else by who runs it. An ordinary user's own are always below directories
of that user: what lay in /tmp, somebody else could make first.
"""

import os
from pathlib import Path

HANDSHAKE_SOCKET = "handshake.sock"
CONTROL_SOCKET = "control.sock"
DATABASE = "registry.db"
REPLAY_RECORD = "used-tickets.db"
DROP_INS = "registrations.d"
DEMUX_SOCKET = "accept.sock"

_DAEMON, _DEMUX = "handshaked", "handshaked-demux"


def state_directory() -> Path:
    """``$STATE_DIRECTORY``, else /var/lib/handshaked for root, else below ``$XDG_STATE_HOME``."""
    return _directory("STATE_DIRECTORY", "/var/lib", _user_state(), _DAEMON)


def runtime_directory() -> Path:
    """``$RUNTIME_DIRECTORY``, else /run/handshaked for root, else below ``$XDG_RUNTIME_DIR``, else as the state."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), _DAEMON)


def configuration_directory() -> Path:
    """``$CONFIGURATION_DIRECTORY``, else /etc/handshaked for root, else below ``$XDG_CONFIG_HOME``."""
    return _directory("CONFIGURATION_DIRECTORY", "/etc", os.environ.get("XDG_CONFIG_HOME") or "~/.config", _DAEMON)


def demux_directory() -> Path:
    """Where the demultiplexer makes its socket: as ``runtime_directory``, below handshaked-demux."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), _DEMUX)


def handshake_socket() -> Path:
    """Where endpoints find the daemon: ``$HANDSHAKED_DIRECTORY``, else the user's own if it is there, else the
    system's.
    """
    return _found(_DAEMON, HANDSHAKE_SOCKET)


def control_socket() -> Path:
    """Where the daemon takes commands, found likewise."""
    return _found(_DAEMON, CONTROL_SOCKET)


def demux_socket() -> Path:
    """Where applications find the demultiplexer, found likewise; the variable is ``$HANDSHAKED_DEMUX_DIRECTORY``."""
    return _found(_DEMUX, DEMUX_SOCKET)


def _found(name: str, socket: str) -> Path:
    # Not $RUNTIME_DIRECTORY: in a client that systemd starts, it is the client's own.
    given = os.environ.get(f"{name.upper().replace('-', '_')}_DIRECTORY")
    if given:
        return Path(given, socket)
    own = os.path.join(os.path.expanduser(_user_runtime()), name, socket)
    # Unlike those of Path, these functions take a user without a home, and a directory that is closed to the user.
    return Path(own) if os.geteuid() != 0 and os.path.exists(own) else Path("/run", name, socket)


def _user_state() -> str:
    return os.environ.get("XDG_STATE_HOME") or "~/.local/state"


def _user_runtime() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or _user_state()


def _directory(variable: str, system: str, user: str, name: str) -> Path:
    given = os.environ.get(variable)
    if given:
        return Path(given.partition(":")[0])
    return Path(system if os.geteuid() == 0 else user).expanduser() / name
