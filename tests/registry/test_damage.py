"""A damaged registry: each way to read or change it raises UnavailableError, which says what to do."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from handshaked.errors import UnavailableError
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Grant
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import ClientTrust, NewRegistration, Source
from tests.conftest import Issue
from tests.damage import damage

NAME = "a.example.com"


@pytest.fixture
def new(issue: Issue) -> NewRegistration:
    issued = issue(NAME)
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    return NewRegistration("web", 1000, (NAME,), (b"h3",), ((loaded, Source()),), client_trust=ClientTrust(b"x"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


READS: list[Callable[[SqliteRegistryReader], object]] = [
    lambda store: store.load(),
    lambda store: store.refresh(Snapshot()),
    lambda store: store.credential(1),
    lambda store: store.trust(1),
    lambda store: store.ticket_keys(),
]
CHANGES: list[Callable[[SqliteRegistryWriter, NewRegistration], object]] = [
    lambda store, new: store.register(new, replace=True),
    lambda store, new: store.unregister("web"),
    lambda store, new: store.exchange(["web"], [new]),
    lambda store, new: store.lifetimes(0.0),
    lambda store, new: store.trust_paths(1),
    lambda store, new: store.sources(0, 9),
    lambda store, new: store.rotate_ticket_keys(0.0),
    lambda store, new: store.forget_unused(),
    lambda store, new: store.unused(),
    lambda store, new: store.erase([1]),
    lambda store, new: store.add_grant(Grant(0, 1000, None, (), (b"h3",))),
    lambda store, new: store.remove_grant(1),
    lambda store, new: store.grants(),
]


@pytest.mark.parametrize("read", READS)
def test_reading_a_damaged_registry_is_refused(
    path: Path, new: NewRegistration, read: Callable[[SqliteRegistryReader], object]
) -> None:
    with closing(SqliteRegistryWriter(path)) as writer:
        writer.register(new)
    with closing(SqliteRegistryReader(path)) as reader:
        damage(path)
        with pytest.raises(UnavailableError, match="restore it from a backup"):
            read(reader)


@pytest.mark.parametrize("change", CHANGES)
def test_changing_a_damaged_registry_is_refused(
    path: Path, new: NewRegistration, change: Callable[[SqliteRegistryWriter, NewRegistration], object]
) -> None:
    with closing(SqliteRegistryWriter(path)) as writer:
        writer.register(new)
    with closing(SqliteRegistryWriter(path)) as writer:
        damage(path)
        with pytest.raises(UnavailableError, match="restore it from a backup"):
            change(writer, new)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE registration SET server_names = '{'",
        "UPDATE registration SET access = '[1]'",
        "UPDATE registration SET access = '[1, 2, 3]'",
        "UPDATE registration SET policy = 'null'",
        "UPDATE credential SET key_type = 'rot13'",
    ],
)
def test_rows_that_cannot_be_decoded_are_damage(path: Path, new: NewRegistration, statement: str) -> None:
    with closing(SqliteRegistryWriter(path)) as writer:
        writer.register(new)
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()
    with closing(SqliteRegistryWriter(path)) as writer:
        with pytest.raises(UnavailableError, match="a row cannot be decoded"):
            writer.load()
        # The connection remains usable.
        assert writer.grants() == []
