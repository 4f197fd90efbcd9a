"""Files that others name or pass: opened without side effects, and read up to a limit. Both may block for any time."""

import os
import stat
from collections.abc import Callable

from handshaked.errors import RefusedError
from handshaked.registry.mode_advice import advise, shown_mode

MAX_FILE = 1024 * 1024


def open_regular(path: str, check: Callable[[os.stat_result], object] = lambda status: None) -> int:
    """Open the regular file at `path` for reading, if `check` does not refuse its status; return the descriptor.

    Nothing else is opened, as opening a device may have effects and opening a FIFO may block. OSError names `path`.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{path}: not a regular file")
        check(status)
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(place)


def read_file(fd: int, path: str, *, secret: bool, limit: int = MAX_FILE) -> bytes:
    """Return the content of the open file `fd`; `path` is for error texts.

    RefusedError if it is not a regular file, is larger than `limit` bytes, or is `secret` and its mode lets everyone
    read or write it.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{path}: not a regular file")
    if secret and status.st_mode & 0o006:
        raise RefusedError(
            f"{path}: everyone can {'read' if status.st_mode & 0o004 else 'write'} this secret file "
            f"(mode {shown_mode(status)}); {advise('chmod o-rw', path, fd)}"
        )
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise RefusedError(f"{path}: {max(status.st_size, len(content))} bytes, the limit is {limit}")
    return content
