"""A record of the session tickets used for early data, shared by all workers and kept across restarts.

A ticket may be used for early data once (RFC 8446 section 8.1). The record is a database of its own, as workers cannot
write to the registry. Clients make it grow, up to a limit: then early data is refused until tickets have expired.
While the record cannot be used, early data is refused, too.

The record itself says since when it is complete. Earlier tickets may have been used without being in it, so they are
refused, for as long as they are valid (section 8.2): if the record is new because the last one was lost, or if the
clock was set back, which makes tickets valid again whose use has been forgotten.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from handshaked.registry.schema import is_damage, leaves_locks

log = logging.getLogger(__name__)

MAX_PAGES = 32 * 1024
"""Largest size of a record, in pages of 4 KiB: enough for more than a million tickets."""

CLOCK_TOLERANCE = 60.0
"""Largest step back of the clock without an effect, in seconds: uses are remembered that much longer."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (ticket BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_expires ON used (expires);
CREATE TABLE IF NOT EXISTS period (one INTEGER PRIMARY KEY CHECK (one = 1), since REAL NOT NULL, latest REAL NOT NULL);
"""
_PURGE_EVERY = 1000
_WAIT_SECONDS = 0.05
_START_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_PRECISION = 1.0  # of `latest`, in seconds


class ReplayRecord:
    """The record at `path`, created if needed. Implements the engine's ``ReplayGuard``.

    A damaged record is moved aside and a new one created. A record that cannot be opened is tried again later.
    ``created`` is the time (Unix seconds) since which the record is complete, None while it cannot be used; `clock`
    tells the time at which a new record is created.
    """

    def __init__(self, path: Path, max_pages: int = MAX_PAGES, clock: Callable[[], float] = time.time) -> None:
        self.created: float | None = None
        self._clock = clock
        self._path = path
        self._max_pages = max_pages
        self._db: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None
        self._retry_at = 0.0
        self._since_purge = 0
        self._warned = False
        try:
            self._open(_START_SECONDS)
        except (OSError, sqlite3.Error, MemoryError) as error:
            self._fail(error)

    def first_use(self, ticket: bytes, issued: float, expires: float, now: float) -> bool:
        """As ``ReplayGuard.first_use``: an insertion that succeeds for one caller only."""
        try:
            db = self._opened()
            if db is None:
                return False
            with db:  # commits, or rolls back
                db.execute("BEGIN IMMEDIATE")
                self._purge(db, now)
                self.created = self._complete_since(db, now)
                if issued < self.created:
                    return False
                inserted = db.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (ticket, expires)).rowcount
        except (OSError, sqlite3.Error, MemoryError) as error:
            self._fail(error)
            return False
        return inserted == 1

    def close(self) -> None:
        """Close the record."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self.created = None

    def _opened(self) -> sqlite3.Connection | None:
        """Return the database, opened again if the file was replaced or was not usable; None before the next try."""
        if self._db is not None and _same(_status(self._path), self._file):
            return self._db
        if time.monotonic() < self._retry_at:
            return None
        self._open(_WAIT_SECONDS)
        return self._db

    def _open(self, seconds: float) -> None:
        """Open the file, or a new one in place of a damaged one; wait at most `seconds` for other workers."""
        self.close()
        self._path.touch(mode=0o600)
        file = _status(self._path)
        try:
            self._db = self._connect_again(seconds)
        except sqlite3.DatabaseError as error:
            if not is_damage(error) or not self._move_aside(file, error):
                raise
            self._path.touch(mode=0o600)
            file = _status(self._path)
            self._db = self._connect(seconds)
        self._file = file
        self.created = float(self._db.execute("SELECT since FROM period").fetchone()[0])

    def _connect_again(self, seconds: float) -> sqlite3.Connection:
        """Connect, once again if it looks damaged: SQLite takes some errors of reading for damage."""
        try:
            return self._connect(seconds)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return self._connect(seconds)

    def _connect(self, seconds: float) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=seconds)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # Write through to the disk: a use lost in a crash could be replayed.
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA max_page_count = {self._max_pages}")
            db.executescript(_SCHEMA)
            now = self._clock()
            db.execute("INSERT OR IGNORE INTO period VALUES (1, ?, ?)", (now, now))
            db.execute(f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000:.0f}")
        except BaseException:  # raised again: the connection must not leak
            db.close()
            raise
        return db

    def _move_aside(self, file: os.stat_result | None, error: sqlite3.Error) -> bool:
        """Rename the damaged `file`, unless another worker has; return False if one is about to."""
        with closing(_Lock(self._path.parent)) as lock:
            if not lock.taken:
                return False
            if _same(_status(self._path), file):
                aside = self._path.with_name(f"{self._path.name}.damaged")
                # The log first: left alone, it would be applied to the new database.
                for suffix in ("-wal", "-shm", ""):
                    source = Path(f"{self._path}{suffix}")
                    if source.exists():
                        source.rename(f"{aside}{suffix}")
                log.error("the record of used tickets is damaged (%s); it is replaced and kept as %s", error, aside)
        return True

    def _fail(self, error: Exception) -> None:
        if not self._warned:  # clients must not be able to fill the log
            log.warning("early data is refused: the record of used tickets is unavailable: %s", error)
        self._warned = True
        if self._db is None or is_damage(error):
            self._retry_at = time.monotonic() + _RETRY_SECONDS
        if is_damage(error) or leaves_locks(error):
            self.close()

    def _complete_since(self, db: sqlite3.Connection, now: float) -> float:
        """Return the time since which the record is complete, which a clock set back moves to the latest use."""
        since, latest = db.execute("SELECT since, latest FROM period").fetchone()
        if now < latest - CLOCK_TOLERANCE:
            log.warning(
                "the clock was set back by %.0f s: early data is refused for tickets issued before %s",
                latest - now,
                time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(latest)),
            )
            since = max(since, latest)
            db.execute("UPDATE period SET since = ?, latest = ?", (since, now))
        elif now >= latest + _PRECISION:
            db.execute("UPDATE period SET latest = ?", (now,))
        return float(since)

    def _purge(self, db: sqlite3.Connection, now: float) -> None:
        self._since_purge += 1
        if self._since_purge >= _PURGE_EVERY:
            self._since_purge = 0
            self._warned = False
            db.execute("DELETE FROM used WHERE expires < ?", (now - CLOCK_TOLERANCE - _PRECISION,))


class _Lock:
    """An attempt to lock `directory` for moving a file; ``taken`` tells whether it succeeded."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.taken = False
        else:
            self.taken = True

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _same(first: os.stat_result | None, second: os.stat_result | None) -> bool:
    """Return whether both are the status of one file."""
    return first is not None and second is not None and os.path.samestat(first, second)
