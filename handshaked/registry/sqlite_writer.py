"""The registry in an SQLite database, as the control process reads and writes it.

The database holds the old state or the new one, whatever kills the writer. One process writes: the daemon's parent.
"""

import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from handshaked.errors import RefusedError, UnavailableError
from handshaked.model import KeyType
from handshaked.registry.credentials import LoadedCredential, chain_digest
from handshaked.registry.names import show_alpn
from handshaked.registry.registration import NO_ALPN, CredentialReference, Grant, Registration
from handshaked.registry.rows import dump_access, dump_policy, join, load_alpns, split
from handshaked.registry.schema import open_for_writing, unavailable_for
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.store import (
    TICKET_KEY_ROTATION,
    ClientTrust,
    ConflictError,
    CredentialDetails,
    Lifetime,
    NewRegistration,
    Source,
)
from handshaked.tls.tickets import MAX_TICKET_LIFETIME

_AHEAD = 3600.0
"""A new ticket key is added this long before it is used, in seconds, so that all workers have it by then."""


class SqliteRegistryWriter(SqliteRegistryReader):
    """The database at `path`, created or migrated if needed. Implements ``RegistryWriter``."""

    def _open(self, path: Path) -> sqlite3.Connection:
        return open_for_writing(path)

    def register(self, new: NewRegistration, *, replace: bool = False) -> Registration:
        """As ``RegistryWriter.register``."""
        return self.register_all([new], replace=replace)[0]

    def register_all(self, news: Iterable[NewRegistration], *, replace: bool = False) -> list[Registration]:
        """Add many registrations in one transaction: all of them or, with RefusedError, none."""
        with self._transaction():
            return [self._register(new, replace=replace) for new in news]

    def unregister(self, name: str) -> None:
        """As ``RegistryWriter.unregister``."""
        with self._transaction():
            self._remove(self._id_of(name))

    def replace_credentials(
        self, registration: Registration, credentials: Iterable[tuple[LoadedCredential, Source]]
    ) -> None:
        """As ``RegistryWriter.replace_credentials``."""
        with self._transaction():
            self._db.execute("DELETE FROM registration_credential WHERE registration = ?", (registration.id,))
            self._insert_credentials(registration.id, credentials)
            self._db.execute("INSERT INTO change (registration) VALUES (?)", (registration.id,))

    def exchange(self, gone: Iterable[str], news: Iterable[NewRegistration]) -> list[Registration]:
        """As ``RegistryWriter.exchange``."""
        news = list(news)
        with self._transaction():
            for name in [*gone, *(new.name for new in news)]:
                row = self._db.execute("SELECT id FROM registration WHERE name = ?", (name,)).fetchone()
                if row is not None:
                    self._remove(row[0])
            done = []
            for new in news:
                try:
                    done.append(self._register(new, replace=False))
                except RefusedError as error:
                    raise ConflictError(new.name, str(error)) from None
            return done

    def lifetimes(self, before: float = inf) -> list[Lifetime]:
        """As ``RegistryWriter.lifetimes``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT r.name, c.subject, c.not_before, c.not_after FROM registration r"
                " JOIN registration_credential rc ON rc.registration = r.id JOIN credential c ON c.id = rc.credential"
                " WHERE c.not_after < ? ORDER BY c.not_after",
                (before,),
            ).fetchall()
        return list(map(Lifetime._make, rows))

    def trust_paths(self, identity: int) -> tuple[str, str]:
        """As ``RegistryWriter.trust_paths``."""
        with self._reading_rows():
            row = self._db.execute("SELECT source FROM trust WHERE id = ?", (identity,)).fetchone()
            anchors, revocations = json.loads(row[0]) if row is not None else ("", "")
            return anchors, revocations

    def replace_trust(self, registration: Registration, trust: ClientTrust) -> None:
        """As ``RegistryWriter.replace_trust``."""
        with self._transaction():
            policy = self._with_trust(registration.policy, trust)
            self._db.execute("UPDATE registration SET policy = ? WHERE id = ?", (dump_policy(policy), registration.id))
            self._db.execute("INSERT INTO change (registration) VALUES (?)", (registration.id,))

    def rotate_ticket_keys(self, now: float) -> bool:
        """As ``RegistryWriter.rotate_ticket_keys``."""
        # A key for a later time was made while the clock was wrong. Ignore it: waiting for it would mean no tickets.
        with self._reading():
            newest = self._db.execute(
                "SELECT max(begins) FROM ticket_key WHERE begins <= ?", (now + TICKET_KEY_ROTATION,)
            ).fetchone()[0]
        if newest is not None and now < newest + TICKET_KEY_ROTATION - _AHEAD:
            return False
        begins = now if newest is None else max(now, newest + TICKET_KEY_ROTATION)
        with self._transaction():
            self._db.execute("INSERT INTO ticket_key VALUES (?, ?)", (begins, os.urandom(32)))
            expired = now - TICKET_KEY_ROTATION - MAX_TICKET_LIFETIME
            self._db.execute("DELETE FROM ticket_key WHERE begins < ?", (expired,))
        return True

    def details(self, registration: Registration) -> list[CredentialDetails]:
        """As ``RegistryWriter.details``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT c.id, c.key_type, c.digest, c.chain, c.subject, c.not_before, c.not_after, r.source, c.ocsp"
                " FROM registration_credential r JOIN credential c ON c.id = r.credential"
                " WHERE r.registration = ? ORDER BY r.position",
                (registration.id,),
            ).fetchall()
            return [
                CredentialDetails(
                    CredentialReference(row[0], KeyType(row[1]), row[2]),
                    chain_digest(split(row[3], 4), row[8]),
                    row[4],
                    row[5],
                    row[6],
                    Source(*json.loads(row[7])),
                )
                for row in rows
            ]

    def sources(self, first: int, last: int) -> dict[int, tuple[Source, ...]]:
        """As ``RegistryWriter.sources``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT registration, source FROM registration_credential WHERE registration BETWEEN ? AND ?"
                " ORDER BY registration, position",
                (first, last),
            ).fetchall()
            found: dict[int, tuple[Source, ...]] = {}
            for registration, source in rows:
                found[registration] = (*found.get(registration, ()), Source(*json.loads(source)))
            return found

    def chains(self, first: int, last: int) -> dict[int, list[tuple[tuple[bytes, ...], bytes | None]]]:
        """As ``RegistryWriter.chains``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT r.registration, c.chain, c.ocsp FROM registration_credential r"
                " JOIN credential c ON c.id = r.credential WHERE r.registration BETWEEN ? AND ?"
                " ORDER BY r.registration, r.position",
                (first, last),
            ).fetchall()
        found: dict[int, list[tuple[tuple[bytes, ...], bytes | None]]] = {}
        for registration, chain, ocsp in rows:
            found.setdefault(registration, []).append((split(chain, 4), ocsp))
        return found

    def forget_unused(self) -> None:
        """As ``RegistryWriter.forget_unused``."""
        with self._transaction():
            self._db.execute("DELETE FROM credential WHERE id NOT IN (SELECT credential FROM registration_credential)")
            self._db.execute(
                "DELETE FROM trust WHERE id NOT IN"
                " (SELECT json_extract(policy, '$.client_trust') FROM registration WHERE policy LIKE '%client_trust%')"
            )
            self._db.execute("DELETE FROM change WHERE generation < (SELECT max(generation) FROM change)")
        with unavailable_for(self._path):
            # SQLite zeroes erased rows in the database (secure_delete), but not in the write-ahead log.
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def unused(self) -> list[int]:
        """As ``RegistryWriter.unused``. A credential that is registered again gets a new id."""
        with self._reading():
            rows = self._db.execute(
                "SELECT id FROM credential WHERE id NOT IN (SELECT credential FROM registration_credential)"
            )
            return [row[0] for row in rows]

    def erase(self, unused: Iterable[int]) -> None:
        """As ``RegistryWriter.erase``, from the database and from its write-ahead log."""
        with self._transaction():
            self._db.executemany("DELETE FROM credential WHERE id = ?", ((identity,) for identity in unused))
        with unavailable_for(self._path), self._without_old_locks():
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise UnavailableError(f"{self._path}: its write-ahead log is being read, and keeps the keys until later")

    def add_grant(self, grant: Grant) -> Grant:
        """As ``RegistryWriter.add_grant``."""
        for kept in self.grants():
            if dataclasses.replace(kept, id=grant.id) == grant:
                return kept
        with self._transaction():
            cursor = self._db.execute(
                "INSERT INTO grant_ (uid, gid, server_names, alpns, kernel, created) VALUES (?, ?, ?, ?, ?, ?)",
                (grant.uid, grant.gid, json.dumps(grant.server_names), join(grant.alpns, 1), grant.kernel, time.time()),
            )
        return dataclasses.replace(grant, id=_row_id(cursor))

    def remove_grant(self, identity: int) -> None:
        """As ``RegistryWriter.remove_grant``."""
        with self._transaction():
            if self._db.execute("DELETE FROM grant_ WHERE id = ?", (identity,)).rowcount == 0:
                raise RefusedError(f"there is no grant {identity}")

    def grants(self) -> list[Grant]:
        """As ``RegistryWriter.grants``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT id, uid, gid, server_names, alpns, kernel FROM grant_ ORDER BY id"
            ).fetchall()
            return [
                Grant(row[0], row[1], row[2], tuple(json.loads(row[3])), load_alpns(row[4]), bool(row[5]))
                for row in rows
            ]

    def _register(self, new: NewRegistration, *, replace: bool) -> Registration:
        row = self._db.execute("SELECT id FROM registration WHERE name = ?", (new.name,)).fetchone()
        if row is not None:
            if not replace:
                raise RefusedError(f"registration {new.name!r} already exists; to change it, register with --replace")
            self._remove(row[0])
        pairs = [(name, alpn) for name in new.server_names or ("",) for alpn in new.alpns or (NO_ALPN,)]
        for pair in pairs:
            self._check_free(*pair)
        cursor = self._db.execute(
            "INSERT INTO registration (name, owner, server_names, alpns, access, policy, created, origin)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new.name,
                new.owner,
                json.dumps(new.server_names),
                join(new.alpns, 1),
                dump_access(new.access),
                dump_policy(self._with_trust(new.policy, new.client_trust)),
                time.time(),
                new.origin,
            ),
        )
        identity = _row_id(cursor)
        self._db.executemany("INSERT INTO pair VALUES (?, ?, ?)", [(*pair, identity) for pair in pairs])
        self._insert_credentials(identity, new.credentials)
        self._db.execute("INSERT INTO change (registration) VALUES (?)", (identity,))
        return next(self._registrations(identity))

    def _with_trust(self, policy: Policy, trust: ClientTrust | None) -> Policy:
        if trust is None:
            return policy
        cursor = self._db.execute(
            "INSERT INTO trust (anchors, revocations, source) VALUES (?, ?, ?)",
            (trust.anchors, trust.revocations, json.dumps([trust.anchors_path, trust.revocations_path])),
        )
        return dataclasses.replace(policy, client_trust=_row_id(cursor))

    def _insert_credentials(self, identity: int, credentials: Iterable[tuple[LoadedCredential, Source]]) -> None:
        for position, (credential, source) in enumerate(credentials):
            self._db.execute(
                "INSERT INTO registration_credential VALUES (?, ?, ?, ?)",
                (
                    identity,
                    position,
                    self._insert_credential(credential),
                    json.dumps([source.certificate, source.key, source.passphrase, source.ocsp]),
                ),
            )

    def _insert_credential(self, credential: LoadedCredential) -> int:
        cursor = self._db.execute(
            "INSERT INTO credential (digest, key_type, subject, not_before, not_after, chain, key, ocsp)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                credential.leaf_digest,
                credential.key_type.value,
                credential.subject,
                credential.not_before,
                credential.not_after,
                join(credential.chain, 4),
                credential.key,
                credential.ocsp_response,
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
                f"server name {server_name or '(any)'} with ALPN {show_alpn(alpn) or '(none)'} is held by registration"
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with unavailable_for(self._path), self._without_old_locks():
            self._begin("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:  # raised again: no transaction may stay open
                if self._db.in_transaction:  # a full disk may have rolled it back already
                    self._db.execute("ROLLBACK")
                raise


def _row_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT has a row id; this is for the type checker
    return cursor.lastrowid
