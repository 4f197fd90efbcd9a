"""The registry in an SQLite database, as workers read it.

Credentials and trust are immutable rows: a snapshot that a handshake pinned finds its own even after the registration
has changed, until the writer erases what is no longer used.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.errors import LocalError, RefusedError, Status
from handshaked.model import KeyType
from handshaked.registry.credentials import open_credential
from handshaked.registry.registration import CredentialReference, Registration
from handshaked.registry.rows import load_access, load_alpns, load_key_type, load_policy, split
from handshaked.registry.schema import leaves_locks, open_for_reading, readable_rows_of
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import ClientTrust
from handshaked.tls.parameters import Credential

_REGISTRATION_COLUMNS = "id, name, owner, server_names, alpns, access, policy, origin"


class SqliteRegistryReader:
    """The database at `path`, which must exist; opened read-only. Implements ``RegistryReader``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._open(path)
        self._holds_locks = False

    def _open(self, path: Path) -> sqlite3.Connection:
        return open_for_reading(path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def load(self) -> Snapshot:
        """As ``RegistryReader.load``."""
        with self._reading():
            return Snapshot(self._registrations(None), self._generation())

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """As ``RegistryReader.refresh``."""
        with self._reading():
            generation = self._generation()
            if generation == snapshot.generation:
                return snapshot
            if snapshot.generation < self._forgotten():
                return Snapshot(self._registrations(None), generation)
            ids = {
                row[0]
                for row in self._db.execute(
                    "SELECT registration FROM change WHERE generation > ?", (snapshot.generation,)
                )
            }
            changed = [registration for identity in ids for registration in self._registrations(identity)]
            return snapshot.with_changes(changed, ids - {registration.id for registration in changed}, generation)

    def credential(self, identity: int) -> Credential:
        """As ``RegistryReader.credential``."""
        with self._reading_rows():
            row = self._db.execute(
                "SELECT chain, key, key_type, ocsp FROM credential WHERE id = ?", (identity,)
            ).fetchone()
            stored = row and (split(row[0], 4), row[1], KeyType(row[2]), row[3])
        if stored is None:
            raise LocalError("the credential was removed during the handshake", Status.NO_KEY)
        try:
            return open_credential(*stored)
        except RefusedError as error:
            raise LocalError(f"credential {identity} of the registry cannot be used: {error}", Status.NO_KEY) from None

    def trust(self, identity: int) -> ClientTrust:
        """As ``RegistryReader.trust``."""
        with self._reading_rows():
            row = self._db.execute(
                "SELECT anchors, revocations, source FROM trust WHERE id = ?", (identity,)
            ).fetchone()
            trust = row and ClientTrust(row[0], row[1], *json.loads(row[2]))
        if trust is None:
            raise LocalError("the trust anchors were removed during the handshake", Status.NO_KEY)
        return trust

    def ticket_keys(self) -> list[tuple[float, bytes]]:
        """As ``RegistryReader.ticket_keys``."""
        with self._reading_rows():
            return list(self._db.execute("SELECT begins, secret FROM ticket_key ORDER BY begins"))

    def _registrations(self, identity: int | None) -> Iterator[Registration]:
        """Yield the registration with the id `identity`, or all registrations for None."""
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
                alpns=load_alpns(row[4]),
                credentials=tuple(references.pop(row[0], ())),
                access=load_access(row[5]),
                policy=load_policy(row[6]),
                origin=row[7],
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
            reference = CredentialReference(credential, load_key_type(key_type), digest)
            references.setdefault(registration, []).append(reference)
        return references

    def _forgotten(self) -> int:
        """Return the oldest generation since which the list of changes is complete."""
        row = self._db.execute("SELECT min(generation) FROM change").fetchone()
        return int(row[0]) - 1 if row[0] is not None else 0

    def _generation(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._reading_rows():
            self._begin("BEGIN")
            try:
                yield
            finally:
                if self._db.in_transaction:  # an error may have ended it already
                    self._db.execute("COMMIT")

    @contextmanager
    def _reading_rows(self) -> Iterator[None]:
        with readable_rows_of(self._path), self._without_old_locks():
            yield

    @contextmanager
    def _without_old_locks(self) -> Iterator[None]:
        """Use a new connection after an error that may have left locks to the old one."""
        if self._holds_locks:
            self._db.close()
            self._db = self._open(self._path)
            self._holds_locks = False
        try:
            yield
        except sqlite3.Error as error:
            self._holds_locks = leaves_locks(error)
            raise

    def _begin(self, statement: str) -> None:
        """Begin a transaction, after the end of one that an error has left open."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.execute(statement)
