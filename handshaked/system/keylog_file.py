"""The file that secrets are logged to where an administrator asks for it: whoever can read it can read connections."""

import logging
import os
import stat
from pathlib import Path

from handshaked.errors import RefusedError

log = logging.getLogger(__name__)


class KeyLogFile:
    """The file at `path` in the format of SSLKEYLOGFILE, to which all workers append; made if it is not there."""

    def __init__(self, path: Path) -> None:
        """Open it; RefusedError unless it is a file that nobody else can read."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise RefusedError(f"keylog: {path} cannot be written to: {error.strerror}") from None
        self._path = path
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(self._file)
            raise RefusedError(f"keylog: {path} has to be a file of the daemon's user that nobody else has access to")

    def write(self, line: str) -> None:
        """Append a line, whole."""
        try:
            os.write(self._file, f"{line}\n".encode())
        except OSError as error:
            log.error("secrets are not logged: %s: %s", self._path, error.strerror)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def warn(self) -> None:
        """Tell people, loudly."""
        log.warning(
            "THE SECRETS OF ALL CONNECTIONS ARE WRITTEN TO %s: whoever reads it can read them. Take keylog out of"
            " [log], restart, and delete the file when you are done",
            self._path,
        )
