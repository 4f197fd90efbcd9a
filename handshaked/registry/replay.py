"""Which session tickets have brought early data: shared by all workers, and kept over restarts.

A ticket may bring early data once (RFC 8446 section 8.1). The record is its own database beside the registry, which
workers cannot write. Clients make it grow, up to a limit: then there is no early data until tickets have expired.
"""

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

MAX_PAGES = 32 * 1024
"""How large a record may grow, in pages of 4 KiB: those hold more than a million tickets."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (ticket BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_expires ON used (expires);
"""
_PURGE_EVERY = 1000
_WAIT_SECONDS = 0.05
_START_SECONDS = 5.0


class ReplayRecord:
    """The record at `path`, which is made if it is not there. Implements the engine's ``ReplayGuard``."""

    def __init__(self, path: Path, max_pages: int = MAX_PAGES) -> None:
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=_START_SECONDS)
        self._db.execute("PRAGMA journal_mode = WAL")
        # Written through: a use that is forgotten could be repeated.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(f"PRAGMA max_page_count = {max_pages}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000:.0f}")
        self._since_purge = 0
        self._warned = False

    def first_use(self, ticket: bytes, expires: float, now: float) -> bool:
        """As ``ReplayGuard.first_use``: an insertion that succeeds for one caller only."""
        try:
            self._purge(now)
            inserted = self._db.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (ticket, expires)).rowcount
        except sqlite3.Error as error:
            if not self._warned:  # how often it happens is the clients' choice
                log.warning("early data is refused, the record of used tickets does not answer: %s", error)
            self._warned = True
            return False
        return inserted == 1

    def close(self) -> None:
        """Close the record."""
        self._db.close()

    def _purge(self, now: float) -> None:
        self._since_purge += 1
        if self._since_purge >= _PURGE_EVERY:
            self._since_purge = 0
            self._warned = False
            self._db.execute("DELETE FROM used WHERE expires < ?", (now,))
