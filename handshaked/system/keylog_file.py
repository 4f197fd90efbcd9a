"""The key log file, for administrators who enable it: everyone who can read it can decrypt connections."""

import logging
import os
import stat
from pathlib import Path

from handshaked.errors import RefusedError

log = logging.getLogger(__name__)


class KeyLogFile:
    """The file at `path` in the format of SSLKEYLOGFILE, created if missing; all workers append to it."""

    def __init__(self, path: Path) -> None:
        """Open the file; RefusedError unless it is a regular file that only the daemon's user can read."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise RefusedError(f"keylog: cannot write to {path}: {error.strerror}") from None
        self._path = path
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(self._file)
            raise RefusedError(
                f"keylog: {path} must be a regular file of the daemon's user, without access for others (mode 600)"
            )

    def write(self, line: str) -> None:
        """Append a line in one write."""
        try:
            os.write(self._file, f"{line}\n".encode())
        except OSError as error:
            log.error("cannot write to the key log %s: %s", self._path, error.strerror)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def warn(self) -> None:
        """Log a prominent warning."""
        log.warning(
            "THE SECRETS OF ALL CONNECTIONS ARE WRITTEN TO %s: everyone who can read the file can decrypt them. When"
            " you are done, remove keylog from [log], restart, and delete the file",
            self._path,
        )
