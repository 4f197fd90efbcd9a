"""The directories of the daemons' state and sockets, and how clients find the sockets.

A daemon uses the directories that systemd sets, else those of root or of the user who runs it. The directories of an
ordinary user are always below directories owned by that user: anyone could create one in /tmp first.
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
    """Return ``$STATE_DIRECTORY``, else /var/lib/handshaked for root, else below ``$XDG_STATE_HOME``."""
    return _directory("STATE_DIRECTORY", "/var/lib", _user_state(), _DAEMON)


def runtime_directory() -> Path:
    """Return ``$RUNTIME_DIRECTORY``, else /run/handshaked for root, else below ``$XDG_RUNTIME_DIR`` or the state."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), _DAEMON)


def configuration_directory() -> Path:
    """Return ``$CONFIGURATION_DIRECTORY``, else /etc/handshaked for root, else below ``$XDG_CONFIG_HOME``."""
    return _directory("CONFIGURATION_DIRECTORY", "/etc", _absolute("XDG_CONFIG_HOME") or "~/.config", _DAEMON)


def demux_directory() -> Path:
    """Return the directory of the demultiplexer's socket: as ``runtime_directory``, but handshaked-demux."""
    return _directory("RUNTIME_DIRECTORY", "/run", _user_runtime(), _DEMUX)


def handshake_socket() -> Path:
    """Return the path of the handshake socket for clients.

    ``$HANDSHAKED_SOCKET``, else in ``$HANDSHAKED_DIRECTORY``, else the user's daemon's if it exists, else the system's.
    ``hs_find`` in ``netlink/connection.c`` has the same rules. An empty variable is the same as none.
    """
    named = os.environ.get("HANDSHAKED_SOCKET")
    return Path(named) if named else _found(_DAEMON, HANDSHAKE_SOCKET)


def control_socket() -> Path:
    """Return the path of the control socket for clients, found likewise, but for ``$HANDSHAKED_SOCKET``."""
    return _found(_DAEMON, CONTROL_SOCKET)


def demux_socket() -> Path:
    """Return the path of the demultiplexer's socket for applications: as above, in ``$HANDSHAKED_DEMUX_DIRECTORY``."""
    return _found(_DEMUX, DEMUX_SOCKET)


def _found(name: str, socket: str) -> Path:
    # Not $RUNTIME_DIRECTORY: in a client started by systemd, that is the client's own.
    given = os.environ.get(f"{name.upper().replace('-', '_')}_DIRECTORY")
    if given:
        return Path(given, socket)
    # Not expanduser: it asks the password database, which the C library does not.
    home = _absolute("HOME")
    base = _absolute("XDG_RUNTIME_DIR") or _absolute("XDG_STATE_HOME") or (home and f"{home}/.local/state")
    if base and os.geteuid() != 0 and os.path.exists(f"{base}/{name}/{socket}"):  # of Path it raises in EACCES
        return Path(base, name, socket)
    return Path("/run", name, socket)


def _absolute(variable: str) -> str | None:
    """Return the variable if it is an absolute path; others are invalid (XDG Base Directory Specification)."""
    path = os.environ.get(variable, "")
    return path if path.startswith("/") else None


def _user_state() -> str:
    return _absolute("XDG_STATE_HOME") or "~/.local/state"


def _user_runtime() -> str:
    return _absolute("XDG_RUNTIME_DIR") or _user_state()


def _directory(variable: str, system: str, user: str, name: str) -> Path:
    given = os.environ.get(variable, "").partition(":")[0]
    if given:
        return Path(given)
    return Path(system if os.geteuid() == 0 else user).expanduser() / name
