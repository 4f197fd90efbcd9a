"""The system's trust store, which is read again when its file has changed."""

import logging
from pathlib import Path

from handshaked.errors import LocalError, Status, UnreadableError
from handshaked.tls.x509.readers import read_trust_store
from handshaked.tls.x509.trust import TrustStore

log = logging.getLogger(__name__)

SYSTEM_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")


class SystemTrust:
    """The trust store in the file `path`. If a new version cannot be used, the last good one stays in use."""

    def __init__(self, path: Path = SYSTEM_TRUST) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._store: TrustStore | None = None
        self._problem = ""

    def store(self) -> TrustStore:
        """Return the store; LocalError if it has never been readable."""
        try:
            status = self._path.stat()
            version = status.st_ino, status.st_size, status.st_mtime_ns
            if self._store is None or version != self._version:
                self._version = version  # also if it cannot be used: try each version once
                self._store = read_trust_store(self._path.read_bytes(), str(self._path))
                self._problem = ""
        except (OSError, UnreadableError) as error:
            problem = f"the system's trust store cannot be used: {error}"
            if self._store is None:
                raise LocalError(problem, Status.NO_KEY) from None
            if problem != self._problem:
                self._problem = problem
                log.error("%s; the last good one stays in use", problem)
        return self._store
