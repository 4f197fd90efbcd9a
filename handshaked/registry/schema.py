"""The database's schema: creation, migration from older versions, and refusal of newer ones."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.errors import DamagedError, RefusedError, UnavailableError
from handshaked.model import KeyType
from handshaked.registry.rows import split
from handshaked.tls.x509.keys import key_type_of
from handshaked.tls.x509.readers import read_certificate

_FIRST = """
CREATE TABLE registration (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, owner INTEGER NOT NULL,
    server_names TEXT NOT NULL, alpns BLOB NOT NULL, access TEXT NOT NULL, policy TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE pair (
    server_name TEXT NOT NULL, alpn BLOB NOT NULL,
    registration INTEGER NOT NULL REFERENCES registration ON DELETE CASCADE,
    PRIMARY KEY (server_name, alpn)
) WITHOUT ROWID;
CREATE INDEX pair_registration ON pair (registration);
CREATE TABLE credential (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, key_type TEXT NOT NULL, subject TEXT NOT NULL,
    not_before REAL NOT NULL, not_after REAL NOT NULL, chain BLOB NOT NULL, key BLOB NOT NULL
);
CREATE TABLE registration_credential (
    registration INTEGER NOT NULL REFERENCES registration ON DELETE CASCADE, position INTEGER NOT NULL,
    credential INTEGER NOT NULL REFERENCES credential, source TEXT NOT NULL,
    PRIMARY KEY (registration, position)
) WITHOUT ROWID;
CREATE INDEX registration_credential_credential ON registration_credential (credential);
CREATE TABLE change (generation INTEGER PRIMARY KEY AUTOINCREMENT, registration INTEGER NOT NULL);
"""
_SECOND = """
ALTER TABLE registration ADD COLUMN origin TEXT NOT NULL DEFAULT '';
CREATE TABLE grant_ (
    id INTEGER PRIMARY KEY AUTOINCREMENT, uid INTEGER, gid INTEGER, server_names TEXT NOT NULL, alpns BLOB NOT NULL,
    kernel INTEGER NOT NULL, created REAL NOT NULL
);
"""
_THIRD = """
ALTER TABLE credential ADD COLUMN ocsp BLOB;
CREATE TABLE trust (
    id INTEGER PRIMARY KEY AUTOINCREMENT, anchors BLOB NOT NULL, revocations BLOB NOT NULL, source TEXT NOT NULL
);
CREATE TABLE ticket_key (begins REAL PRIMARY KEY, secret BLOB NOT NULL) WITHOUT ROWID;
"""
_FOURTH = """
UPDATE credential SET key_type = rsa_pss_type(chain) WHERE key_type = 'rsa-pss';
"""
_STEPS = (_FIRST, _SECOND, _THIRD, _FOURTH)
"""The step at index n migrates schema n to schema n + 1. A released step is never changed."""
SCHEMA_VERSION = len(_STEPS)

_BUSY_SECONDS = 1.0
"""Longest time that the daemon's event loop waits for another program that uses the database, such as a backup."""
_DAMAGED = "; it is damaged: restore it from a backup, or move it away and register again"


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the database at `path`, created or migrated if needed; RefusedError if a newer handshaked made it."""
    with unavailable_for(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
        try:
            version = _version(db)
            if version > SCHEMA_VERSION:
                raise RefusedError(
                    f"{path}: made by a newer handshaked (schema {version}, this one knows {SCHEMA_VERSION}): "
                    "install that version again, or move the file away to start without registrations"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA foreign_keys = ON")
            db.create_function("rsa_pss_type", 1, _rsa_pss_type)
            for number in range(version, SCHEMA_VERSION):
                db.executescript(f"BEGIN; {_STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
        except BaseException:  # raised again: the connection must not leak
            db.close()
            raise
    return db


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the database at `path` read-only; RefusedError if its schema is another, after an upgrade."""
    with unavailable_for(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            version = _version(db)
            if version != SCHEMA_VERSION:
                raise RefusedError(
                    f"{path}: has schema {version}, this program knows {SCHEMA_VERSION}; "
                    "handshaked was upgraded while it ran: restart it"
                )
        except BaseException:  # raised again: the connection must not leak
            db.close()
            raise
    return db


@contextmanager
def unavailable_for(path: Path) -> Iterator[None]:
    """Translate errors of the database at `path` or its file into UnavailableError or DamagedError, with advice."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise DamagedError(f"{path}: {error}{_DAMAGED}") from None
        raise UnavailableError(f"{path}: {error}{_advice(error)}") from None
    except OSError as error:
        raise UnavailableError(f"{error.filename or path}: {error.strerror}") from None
    except MemoryError:  # SQLite's SQLITE_NOMEM
        raise UnavailableError(f"{path}: out of memory; nothing was changed") from None


@contextmanager
def readable_rows_of(path: Path) -> Iterator[None]:
    """As ``unavailable_for``, for reading: DamagedError if a row cannot be decoded."""
    try:
        with unavailable_for(path):
            yield
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedError(f"{path}: a row cannot be decoded ({error}){_DAMAGED}") from None


def is_damage(error: Exception) -> bool:
    """Return whether `error` means that the database's file is damaged."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def leaves_locks(error: Exception) -> bool:
    """Return whether a connection that raised `error` may hold locks for good, so that it must be closed.

    SQLite does not notice every lock that it has failed to release. It then waits for its own lock: ten seconds in each
    statement, with SQLITE_PROTOCOL at the end.
    """
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_IOERR", "SQLITE_PROTOCOL", "SQLITE_BUSY", "SQLITE_LOCKED"))


def _rsa_pss_type(chain: bytes) -> str:
    """Return the type of a credential's RSA-PSS key, which schema 4 restricts to the digest that the leaf names.

    One that no signature scheme fits stays as it is: it is refused when its files are loaded again.
    """
    try:
        return key_type_of(read_certificate(split(chain, 4)[0], "credential")).value
    except RefusedError:
        return KeyType.RSA_PSS.value


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _advice(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return "; nothing was changed: free some disk space and try again"
    if name.startswith("SQLITE_IOERR"):
        return "; nothing was changed: the disk is full or failing"
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return "; check the directory's owner and mode, and that files can be opened"
    return ""
