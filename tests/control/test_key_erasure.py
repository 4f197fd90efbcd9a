"""The key of a removed registration is erased from disk, but not before the last handshake that can use it."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from handshaked.control.key_erasure import KeyErasure
from handshaked.errors import LocalError
from handshaked.registry.credentials import LoadedCredential, load_pem
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from tests.conftest import Issue

ROUNDS = 50


@pytest.fixture
def loaded(issue: Issue) -> LoadedCredential:
    issued = issue("www.example.com")
    return load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())


def on_disk(path: Path, secret: bytes) -> bool:
    """Return whether the database or its write-ahead log contains `secret`."""
    return any(secret in file.read_bytes() for file in path.parent.iterdir())


async def rounds(erasure: KeyErasure, ends: Callable[[], bool]) -> None:
    """Run `erasure` until `ends` returns true, or for a few rounds."""
    task = asyncio.create_task(erasure.run())
    for _ in range(ROUNDS):
        if ends():
            break
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def unregistered(path: Path, loaded: LoadedCredential) -> tuple[SqliteRegistryWriter, int]:
    """Return a store, and the id of a credential in it that was unregistered."""
    store = SqliteRegistryWriter(path)
    new = NewRegistration("web", 0, (), (b"h3",), ((loaded, Source()),))
    registration = store.register(new)
    store.unregister("web")
    return store, registration.credentials[0].id


def test_unregistered_key_is_erased_from_disk(tmp_path: Path, loaded: LoadedCredential) -> None:
    path = tmp_path / "registry.db"
    store, identity = unregistered(path, loaded)
    assert on_disk(path, loaded.key)
    assert store.credential(identity)
    forgotten: list[bool] = []
    erasure = KeyErasure(store, Snapshot, lambda snapshot: True, lambda: forgotten.append(True), 0)
    asyncio.run(rounds(erasure, lambda: bool(forgotten)))
    assert not on_disk(path, loaded.key)
    assert forgotten
    with pytest.raises(LocalError):
        store.credential(identity)
    store.close()


def test_key_stays_while_a_worker_has_an_older_snapshot(tmp_path: Path, loaded: LoadedCredential) -> None:
    store, identity = unregistered(tmp_path / "registry.db", loaded)
    erasure = KeyErasure(store, Snapshot, lambda snapshot: False, lambda: None, 0)
    asyncio.run(rounds(erasure, lambda: False))
    assert store.credential(identity)
    store.close()


def test_key_unregistered_since_the_last_check_stays(tmp_path: Path, loaded: LoadedCredential) -> None:
    store, identity = unregistered(tmp_path / "registry.db", loaded)
    registered = store.register(NewRegistration("late", 0, (), (b"h3",), ((loaded, Source()),))).credentials[0].id
    looks = 0

    def up_to_date(snapshot: Snapshot) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            store.unregister("late")
        return looks == 1

    asyncio.run(rounds(KeyErasure(store, Snapshot, up_to_date, lambda: None, 0), lambda: looks > 1))
    assert store.credential(registered)
    with pytest.raises(LocalError):
        store.credential(identity)
    store.close()


def test_key_that_a_reader_keeps_in_the_log_is_erased_later(tmp_path: Path, loaded: LoadedCredential) -> None:
    path = tmp_path / "registry.db"
    store, _ = unregistered(path, loaded)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM credential").fetchall()
    kept: list[bool] = []
    forgotten: list[bool] = []

    def up_to_date(snapshot: Snapshot) -> bool:
        kept.append(on_disk(path, loaded.key))
        if len(kept) == 2:
            reader.execute("ROLLBACK")
        return True

    erasure = KeyErasure(store, Snapshot, up_to_date, lambda: forgotten.append(True), 0)
    asyncio.run(rounds(erasure, lambda: bool(forgotten)))
    assert kept == [True, True]
    assert not on_disk(path, loaded.key)
    store.close()
    reader.close()
