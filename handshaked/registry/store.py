"""Registrations on disk: an SQLite database that holds the old state or the new one, whatever kills the writer.

One process writes (the daemon's parent); workers read. Credentials are immutable rows: a snapshot that a handshake
pinned finds its credential even after the registration has changed, until ``forget_unused`` is called.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from handshaked.errors import LocalError, RefusedError, Status
from handshaked.model import KeyType
from handshaked.registry.credentials import LoadedCredential, open_credential
from handshaked.registry.names import show_alpn
from handshaked.registry.registration import Access, CredentialReference, Policy, Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.tls.parameters import Credential

SCHEMA_VERSION = 1
_SCHEMA = """
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
_REGISTRATION_COLUMNS = "id, name, owner, server_names, alpns, access, policy"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a credential came from: the paths of its files, for reloading and for people. Empty: not from files."""

    certificate: str = ""
    key: str = ""
    passphrase: str = ""


@dataclass(frozen=True, slots=True)
class NewRegistration:
    """A registration as it is asked for, in canonical form, before it has an id."""

    name: str
    owner: int
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    credentials: tuple[tuple[LoadedCredential, Source], ...]
    access: Access = field(default=Access())
    policy: Policy = field(default=Policy())


@dataclass(frozen=True, slots=True)
class CredentialDetails:
    """What people are shown of a registration's credential; times are Unix seconds."""

    reference: CredentialReference
    subject: str
    not_before: float
    not_after: float
    source: Source


class Store:
    """The database at `path`; it is made if it is not there, unless opened `read_only`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        if read_only:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        else:
            self._db = _open_for_writing(path)
        self._db.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def register(self, new: NewRegistration, *, replace: bool = False) -> Registration:
        """Add a registration, or `replace` the one of that name.

        RefusedError if the name is taken, or if another registration holds one of its (server name, ALPN) pairs.
        """
        return self.register_all([new], replace=replace)[0]

    def register_all(self, news: Iterable[NewRegistration], *, replace: bool = False) -> list[Registration]:
        """Add many registrations in one transaction: all of them or, with RefusedError, none."""
        with self._transaction():
            return [self._register(new, replace=replace) for new in news]

    def unregister(self, name: str) -> None:
        """Remove the registration `name`; RefusedError if there is none."""
        with self._transaction():
            self._remove(self._id_of(name))

    def replace_credentials(
        self, registration: Registration, credentials: Iterable[tuple[LoadedCredential, Source]]
    ) -> None:
        """Give `registration` other `credentials`, in one step."""
        with self._transaction():
            self._db.execute("DELETE FROM registration_credential WHERE registration = ?", (registration.id,))
            self._insert_credentials(registration.id, credentials)
            self._db.execute("INSERT INTO change (registration) VALUES (?)", (registration.id,))

    def load(self) -> Snapshot:
        """All registrations."""
        with self._reading():
            return Snapshot(self._registrations(None), self._generation())

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """The current registrations, made out of `snapshot` and what has changed since."""
        with self._reading():
            generation = self._generation()
            if generation == snapshot.generation:
                return snapshot
            ids = {
                row[0]
                for row in self._db.execute(
                    "SELECT registration FROM change WHERE generation > ?", (snapshot.generation,)
                )
            }
            changed = [registration for identity in ids for registration in self._registrations(identity)]
            return snapshot.with_changes(changed, ids - {registration.id for registration in changed}, generation)

    def credential(self, identity: int) -> Credential:
        """The credential with the id `identity`, ready for use; LocalError (ENOKEY) if it is gone."""
        row = self._db.execute("SELECT chain, key, key_type FROM credential WHERE id = ?", (identity,)).fetchone()
        if row is None:
            raise LocalError("the credential was removed while the handshake ran", Status.NO_KEY)
        return open_credential(_split(row[0], 4), row[1], KeyType(row[2]))

    def details(self, registration: Registration) -> list[CredentialDetails]:
        """The credentials of `registration`, in order, for people."""
        rows = self._db.execute(
            "SELECT c.id, c.key_type, c.digest, c.subject, c.not_before, c.not_after, r.source"
            " FROM registration_credential r JOIN credential c ON c.id = r.credential"
            " WHERE r.registration = ? ORDER BY r.position",
            (registration.id,),
        )
        return [
            CredentialDetails(
                CredentialReference(row[0], KeyType(row[1]), row[2]),
                row[3],
                row[4],
                row[5],
                Source(*json.loads(row[6])),
            )
            for row in rows
        ]

    def forget_unused(self) -> None:
        """Erase credentials that no registration uses any more, and the list of past changes.

        Only when no snapshot older than the current one is in use.
        """
        with self._transaction():
            self._db.execute("DELETE FROM credential WHERE id NOT IN (SELECT credential FROM registration_credential)")
            self._db.execute("DELETE FROM change WHERE generation < (SELECT max(generation) FROM change)")

    def _register(self, new: NewRegistration, *, replace: bool) -> Registration:
        row = self._db.execute("SELECT id FROM registration WHERE name = ?", (new.name,)).fetchone()
        if row is not None:
            if not replace:
                raise RefusedError(f"registration {new.name!r} exists already; to change it, register with --replace")
            self._remove(row[0])
        for server_name in new.server_names or ("",):
            for alpn in new.alpns:
                self._check_free(server_name, alpn)
        cursor = self._db.execute(
            "INSERT INTO registration (name, owner, server_names, alpns, access, policy, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                new.name,
                new.owner,
                json.dumps(new.server_names),
                _join(new.alpns, 1),
                _dump_access(new.access),
                _dump_policy(new.policy),
                time.time(),
            ),
        )
        identity = _row_id(cursor)
        self._db.executemany(
            "INSERT INTO pair VALUES (?, ?, ?)",
            [(server_name, alpn, identity) for server_name in new.server_names or ("",) for alpn in new.alpns],
        )
        self._insert_credentials(identity, new.credentials)
        self._db.execute("INSERT INTO change (registration) VALUES (?)", (identity,))
        return next(self._registrations(identity))

    def _insert_credentials(self, identity: int, credentials: Iterable[tuple[LoadedCredential, Source]]) -> None:
        for position, (credential, source) in enumerate(credentials):
            self._db.execute(
                "INSERT INTO registration_credential VALUES (?, ?, ?, ?)",
                (
                    identity,
                    position,
                    self._insert_credential(credential),
                    json.dumps([source.certificate, source.key, source.passphrase]),
                ),
            )

    def _insert_credential(self, credential: LoadedCredential) -> int:
        cursor = self._db.execute(
            "INSERT INTO credential (digest, key_type, subject, not_before, not_after, chain, key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                credential.leaf_digest,
                credential.key_type.value,
                credential.subject,
                credential.not_before,
                credential.not_after,
                _join(credential.chain, 4),
                credential.key,
            ),
        )
        return _row_id(cursor)

    def _check_free(self, server_name: str, alpn: bytes) -> None:
        row = self._db.execute(
            "SELECT name, owner FROM pair JOIN registration ON id = registration WHERE server_name = ? AND alpn = ?",
            (server_name, alpn),
        ).fetchone()
        if row is not None:
            raise RefusedError(
                f"server name {server_name or '(any)'} with ALPN {show_alpn(alpn)} is held by registration"
                f" {row[0]!r} of uid {row[1]}"
            )

    def _id_of(self, name: str) -> int:
        row = self._db.execute("SELECT id FROM registration WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise RefusedError(f"there is no registration {name!r}")
        return int(row[0])

    def _remove(self, identity: int) -> None:
        self._db.execute("DELETE FROM registration WHERE id = ?", (identity,))
        self._db.execute("INSERT INTO change (registration) VALUES (?)", (identity,))

    def _registrations(self, identity: int | None) -> Iterator[Registration]:
        """The registration with the id `identity`, or all of them."""
        where, arguments = ("", ()) if identity is None else ("WHERE id = ?", (identity,))
        rows = self._db.execute(
            f"SELECT {_REGISTRATION_COLUMNS} FROM registration {where} ORDER BY id",  # noqa: S608 - constants
            arguments,
        )
        references = self._references(identity)
        for row in rows:
            yield Registration(
                id=row[0],
                name=row[1],
                owner=row[2],
                server_names=tuple(json.loads(row[3])),
                alpns=_alpns(row[4]),
                credentials=tuple(references.pop(row[0], ())),
                access=_load_access(row[5]),
                policy=_load_policy(row[6]),
            )

    def _references(self, identity: int | None) -> dict[int, list[CredentialReference]]:
        where, arguments = ("", ()) if identity is None else ("WHERE r.registration = ?", (identity,))
        rows = self._db.execute(
            "SELECT r.registration, c.id, c.key_type, c.digest"  # noqa: S608 - constants
            f" FROM registration_credential r JOIN credential c ON c.id = r.credential {where}"
            " ORDER BY r.registration, r.position",
            arguments,
        )
        references: dict[int, list[CredentialReference]] = {}
        for registration, credential, key_type, digest in rows:
            reference = CredentialReference(credential, _key_type(key_type), digest)
            references.setdefault(registration, []).append(reference)
        return references

    def _generation(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")


def _open_for_writing(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        db.close()
        raise RefusedError(
            f"{path}: made by a newer handshaked (schema {version}, this one knows {SCHEMA_VERSION}); upgrade it"
        )
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    return db


def _row_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT has a row id; this is for the type checker
    return cursor.lastrowid


def _join(items: Iterable[bytes], width: int) -> bytes:
    return b"".join(len(item).to_bytes(width) + item for item in items)


def _split(data: bytes, width: int) -> tuple[bytes, ...]:
    items = []
    position = 0
    while position < len(data):
        end = position + width + int.from_bytes(data[position : position + width])
        items.append(data[position + width : end])
        position = end
    return tuple(items)


def _dump_policy(policy: Policy) -> str:
    """Only what differs from the defaults: rows are small, and a new setting needs no new schema."""
    default = Policy()
    return json.dumps(
        {
            setting.name: getattr(policy, setting.name)
            for setting in fields(Policy)
            if getattr(policy, setting.name) != getattr(default, setting.name)
        }
    )


def _dump_access(access: Access) -> str:
    return json.dumps([sorted(access.uids), sorted(access.gids), access.kernel])


# Rows repeat these values by the thousand: one object serves all of them.
@lru_cache(maxsize=4096)
def _load_access(text: str) -> Access:
    uids, gids, kernel = json.loads(text)
    return Access(frozenset(uids), frozenset(gids), kernel)


@lru_cache(maxsize=4096)
def _load_policy(text: str) -> Policy:
    settings: dict[str, Any] = json.loads(text)
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return Policy(**settings)


@lru_cache(maxsize=4096)
def _alpns(data: bytes) -> tuple[bytes, ...]:
    return _split(data, 1)


_key_type = lru_cache(maxsize=None)(KeyType)
