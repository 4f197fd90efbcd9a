"""Keep a daemon the only one at a path: a lock, and a listening Unix socket."""

import asyncio
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from handshaked.errors import RefusedError, UnavailableError

log = logging.getLogger(__name__)

BACKLOG = 128
"""Connections that wait to be accepted. A user may fill the queue: the longer it is, the longer others wait in it."""
# The workers of a killed daemon hold its sockets until they notice its end.
_ATTEMPTS = 30
_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 1.0


def lock_file(path: Path, conflict: str) -> int:
    """Create the file at `path` and lock it; return its descriptor. RefusedError(`conflict`) if another process has."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RefusedError(conflict) from None
    return lock


def open_listener(path: Path) -> socket.socket:
    """Return a listening SOCK_SEQPACKET socket at `path`, in place of a stale one.

    Everyone may connect: rights depend on the caller's credentials. RefusedError if a process listens there, or systemd
    for a service.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        if not _is_live(path):
            break
        time.sleep(_PAUSE_SECONDS)
    else:
        raise RefusedError(f"another process listens at {path}: stop it, or choose another path")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    path.chmod(0o666)
    listener.listen(BACKLOG)
    return listener


class BoundPaths:
    """The `paths` of the listening sockets of `program`, to notice when somebody removes or replaces one."""

    def __init__(self, paths: Iterable[Path], program: str) -> None:
        self._bound = {path: path.stat() for path in paths}
        self._program = program

    async def watch(self) -> None:
        """Wait until a path no longer leads to its socket; then UnavailableError."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            lost = self._lost()
            if lost is not None:
                raise UnavailableError(f"{lost} was removed or replaced: nobody can connect; restart {self._program}")

    def _lost(self) -> Path | None:
        """Return a path that no longer leads to its socket, or None."""
        for path, status in self._bound.items():
            try:
                if not os.path.samestat(path.stat(), status):
                    return path
            except (FileNotFoundError, NotADirectoryError):
                return path
            except OSError as error:
                log.debug("cannot look for %s: %s", path, error)
        return None


def still_bound(inherited: socket.socket, path: Path) -> bool:
    """Return whether the socket `inherited` from systemd can be reached at `path`; if not, close it."""
    if _is_live(path):
        return True
    log.warning("the socket that systemd passed is no longer at %s: a new one replaces it", path)
    inherited.close()
    return False


def _is_live(path: Path) -> bool:
    """Return whether a process, or a socket unit of systemd, listens at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EPROTOTYPE)  # a full queue; a listener of another type
    return True
