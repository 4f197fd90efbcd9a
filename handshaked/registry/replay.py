"""A record of the session tickets used for early data, shared by all workers and kept across restarts.

A ticket may be used for early data once (RFC 8446 section 8.1). The record is a database of its own, as workers cannot
write to the registry. Clients make it grow, up to a limit: then early data is refused until tickets have expired.
"""

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

MAX_PAGES = 32 * 1024
"""Largest size of a record, in pages of 4 KiB: enough for more than a million tickets."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (ticket BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_expires ON used (expires);
"""
_PURGE_EVERY = 1000
_WAIT_SECONDS = 0.05
_START_SECONDS = 5.0


class ReplayRecord:
    """The record at `path`, created if needed. Implements the engine's ``ReplayGuard``."""

    def __init__(self, path: Path, max_pages: int = MAX_PAGES) -> None:
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=_START_SECONDS)
        self._db.execute("PRAGMA journal_mode = WAL")
        # Write through to the disk: a use lost in a crash could be replayed.
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
            if not self._warned:  # clients must not be able to fill the log
                log.warning("early data is refused: the record of used tickets is unavailable: %s", error)
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
