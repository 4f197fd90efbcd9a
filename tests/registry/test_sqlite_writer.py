"""The registry in SQLite: changes are durable and atomic, even if the writer is killed."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from handshaked.errors import Alert, LocalError, PeerError, RefusedError, Status, UnavailableError
from handshaked.model import Caller
from handshaked.registry.credentials import LoadedCredential, load_pem
from handshaked.registry.registration import Access, Grant, Registration
from handshaked.registry.schema import SCHEMA_VERSION
from handshaked.registry.snapshot import Query, Snapshot
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.testing.processes import ending
from tests.conftest import Issue

NAME = "a.example.com"
ROOT = Caller(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "registry.db"


@pytest.fixture
def credential(issue: Issue) -> LoadedCredential:
    issued = issue(NAME)
    return load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())


@pytest.fixture
def another_credential(issue: Issue) -> LoadedCredential:
    issued = issue("b.example.com")
    return load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())


def new(name: str, credential: LoadedCredential, *names: str, alpns: tuple[bytes, ...] = (b"h3",)) -> NewRegistration:
    return NewRegistration(
        name=name,
        owner=1000,
        server_names=names,
        alpns=alpns,
        credentials=((credential, Source("/cert.pem", "/key.pem", "")),),
        access=Access(frozenset({5}), frozenset({6, 7}), kernel=True),
    )


def select(snapshot: Snapshot, name: str = NAME, alpn: bytes = b"h3") -> Registration:
    return snapshot.select(Query(ROOT, name, (alpn,))).registration


def test_registration_survives_reopening(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        made = store.register(new("web", credential, NAME, "*.example.org", alpns=(b"h3", b"\0\xff")))
        snapshot = store.load()
    with closing(SqliteRegistryWriter(path)) as store:
        again = store.load()
        assert again.registrations == snapshot.registrations == [made]
        assert again.generation == snapshot.generation
        opened = store.credential(made.credentials[0].id)
        assert (opened.chain, opened.key_type) == (credential.chain, credential.key_type)
        details = store.details(made)
    assert made.server_names == (NAME, "*.example.org")
    assert made.alpns == (b"h3", b"\0\xff")
    assert made.access == Access(frozenset({5}), frozenset({6, 7}), kernel=True)
    assert [one.source for one in details] == [Source("/cert.pem", "/key.pem", "")]
    assert [one.reference for one in details] == list(made.credentials)


def test_only_the_owner_can_read_the_database(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert [file.name for file in path.parent.iterdir() if file.stat().st_mode & 0o077] == []


def test_name_is_unique(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME))
        with pytest.raises(RefusedError, match="'web' already exists; to change it, register with --replace"):
            store.register(new("web", credential, "other.example.com"))
        assert [one.server_names for one in store.load().registrations] == [(NAME,)]


def test_replacing_leaves_nothing_of_the_old_registration(
    path: Path, credential: LoadedCredential, another_credential: LoadedCredential
) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        old = store.register(new("web", credential, NAME))
        replaced = store.register(new("web", another_credential, "b.example.com", alpns=(b"smb",)), replace=True)
        snapshot = store.load()
        assert snapshot.registrations == [replaced]
        assert replaced.id != old.id
        with pytest.raises(PeerError):
            snapshot.route(Query(ROOT, NAME, (b"h3",)))
        assert snapshot.route(Query(ROOT, "b.example.com", (b"smb",))) == (replaced, b"smb")
        store.register(new("next", credential, NAME))  # the old one's name is free


def test_replacing_a_missing_registration_adds_it(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME), replace=True)
        assert select(store.load()).name == "web"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    ("names", "alpns", "pair"),
    [
        ((NAME,), (b"h3",), "server name a.example.com with ALPN h3"),
        (("b.example.com", NAME), (b"smb", b"h3"), "server name a.example.com with ALPN h3"),
        (("*.w.example.com",), (b"\n",), r"server name \*.w.example.com with ALPN \\x0a"),
    ],
)
def test_overlap_is_refused_naming_the_other_registration_and_its_owner(
    path: Path, credential: LoadedCredential, names: tuple[str, ...], alpns: tuple[bytes, ...], pair: str, replace: bool
) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME, "*.w.example.com", alpns=(b"h3", b"\n")))
        store.register(new("mine", credential, "mine.example.com"))
        before = store.load()
        with pytest.raises(RefusedError, match=rf"{pair} is held by registration 'web' of uid 1000"):
            store.register(new("mine" if replace else "more", credential, *names, alpns=alpns), replace=replace)
        assert store.load().registrations == before.registrations
        assert store.refresh(before) is before


def test_registrations_without_a_name_overlap_too(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("any", credential))
        with pytest.raises(RefusedError, match=r"server name \(any\) with ALPN h3 is held by registration 'any'"):
            store.register(new("more", credential))
        store.register(new("named", credential, NAME))
        store.register(new("smb", credential, alpns=(b"smb",)))


def test_registering_many_is_atomic(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        with pytest.raises(RefusedError, match="'one'"):
            store.register_all([new("one", credential, NAME), new("two", credential, NAME)])
        assert len(store.load()) == 0
        made = store.register_all([new("one", credential, NAME), new("two", credential, "b.example.com")])
        assert [one.name for one in made] == ["one", "two"]


def test_unregistering_frees_names_and_protocols(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME))
        store.unregister("web")
        assert len(store.load()) == 0
        store.register(new("other", credential, NAME))
        with pytest.raises(RefusedError, match="there is no registration 'web'"):
            store.unregister("web")


def test_reader_sees_changes_when_it_refreshes(
    path: Path, credential: LoadedCredential, another_credential: LoadedCredential
) -> None:
    with closing(SqliteRegistryWriter(path)) as writer, closing(SqliteRegistryReader(path)) as reader:
        writer.register(new("stays", credential, "s.example.com"))
        writer.register(new("goes", credential, "g.example.com"))
        before = reader.load()
        assert reader.refresh(before) is before

        writer.unregister("goes")
        renewed = writer.register(new("comes", credential, NAME))
        writer.replace_credentials(renewed, [(another_credential, Source())])
        after = reader.refresh(before)

        assert [one.name for one in after.registrations] == ["comes", "stays"]
        assert [one.leaf_digest for one in select(after).credentials] == [another_credential.leaf_digest]
        assert after.registrations == writer.load().registrations
        assert after.generation == writer.load().generation
        assert [one.name for one in before.registrations] == ["goes", "stays"]


def test_pinned_snapshot_finds_its_credential_until_unused_ones_are_forgotten(
    path: Path, credential: LoadedCredential, another_credential: LoadedCredential
) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        old = store.register(new("web", credential, NAME)).credentials[0]
        store.register(new("web", another_credential, NAME), replace=True)
        assert store.credential(old.id).chain == credential.chain
        store.forget_unused()
        with pytest.raises(LocalError, match="was removed") as caught:
            store.credential(old.id)
        assert (caught.value.status, caught.value.alert) == (Status.NO_KEY, Alert.INTERNAL_ERROR)
        assert store.credential(select(store.load()).credentials[0].id).chain == another_credential.chain


def test_forgotten_key_is_erased_from_the_file(
    path: Path, credential: LoadedCredential, another_credential: LoadedCredential
) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME))
        store.register(new("web", another_credential, NAME), replace=True)
        store.forget_unused()
        data = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert credential.key not in data
    assert another_credential.key in data


def test_reader_that_lags_behind_forgotten_changes_sees_every_change(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as writer, closing(SqliteRegistryReader(path)) as reader:
        writer.register(new("goes", credential, "g.example.com"))
        before = reader.load()
        writer.unregister("goes")
        writer.register(new("web", credential, NAME))
        writer.register(new("last", credential, "l.example.com"))
        writer.forget_unused()
        assert [one.name for one in reader.refresh(before).registrations] == ["last", "web"]


def test_database_of_a_newer_version_is_refused_and_unchanged(path: Path, credential: LoadedCredential) -> None:
    with closing(SqliteRegistryWriter(path)) as store:
        store.register(new("web", credential, NAME))
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(RefusedError, match=rf"made by a newer handshaked \(schema {SCHEMA_VERSION + 1}"):
        SqliteRegistryWriter(path)
    assert path.read_bytes() == before


def test_other_file_is_refused_and_unchanged(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are not the registrations you are looking for" * 100)
    with pytest.raises(RefusedError, match=r"registry.db: .*not a database"):
        SqliteRegistryWriter(path)
    assert path.read_bytes().startswith(b"these are not")


# A writer that forever replaces all registrations with those of the next state, and prints each state once written.
_WRITER = """
import sys
from itertools import count
from pathlib import Path
from handshaked.registry.credentials import load_pem
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source

path, certificate, key = map(Path, sys.argv[1:4])
credential = load_pem(certificate.read_bytes(), key.read_bytes())
store = SqliteRegistryWriter(path)
for state in count(int(sys.argv[4])):
    store.register_all([
        NewRegistration(f"r{i}", 0, (f"s{state}-{i}.example.com",), (b"h3", b"%d" % state),
                        ((credential, Source(str(state))),))
        for i in range(8)
    ], replace=True)
    print(state, flush=True)
    store.forget_unused()
"""
SIZE = 8


def kill_a_writer(path: Path, issue: Issue, first: int, chance: random.Random) -> int:
    """Kill a writer while it writes; return the last state that it printed."""
    issued = issue(NAME)
    command = [sys.executable, "-c", _WRITER, str(path), str(issued.certificate), str(issued.key), str(first)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 4))]
        try:
            writer.wait(chance.uniform(0, 0.02))
        except subprocess.TimeoutExpired:
            writer.kill()
        lines += writer.stdout.readlines()
    return int(lines[-1])


def whole_state(path: Path) -> int:
    """Return the state that all registrations belong to; each can be used."""
    with closing(SqliteRegistryWriter(path)) as store:
        snapshot = store.load()
        state = int(store.details(snapshot.registrations[0])[0].source.certificate)
        assert [(one.name, one.server_names, one.alpns) for one in snapshot.registrations] == [
            (f"r{index}", (f"s{state}-{index}.example.com",), (b"h3", b"%d" % state)) for index in range(SIZE)
        ]
        for one in snapshot.registrations:
            assert select(snapshot, one.server_names[0]) == one
            assert [detail.source.certificate for detail in store.details(one)] == [str(state)]
            assert store.credential(one.credentials[0].id).chain
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        pairs = db.execute("SELECT count(*) FROM pair").fetchone()[0]
    assert pairs == 2 * SIZE
    return state


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_writer_killed_at_any_instant_leaves_the_old_state_or_the_new_one(path: Path, issue: Issue, kills: int) -> None:
    chance = random.Random(kills)
    state = 0
    for _ in range(kills):
        told = kill_a_writer(path, issue, state, chance)
        state = whole_state(path)
        assert state in (told, told + 1)


def test_connection_that_may_hold_locks_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not notice every lock that it has failed to release, and then waits for itself again and again."""
    grant = Grant(0, 1000, None, (NAME,), (b"h3",))
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*words: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*words, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    with closing(SqliteRegistryWriter(path)) as store, closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="locked"):
            store.add_grant(grant)
        other.execute("ROLLBACK")
        store.add_grant(grant)
        assert len(store.grants()) == 1
    assert len(opened) == 2
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
