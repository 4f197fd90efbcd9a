"""Databases of older versions are migrated with all their content; newer ones are refused."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from handshaked.errors import RefusedError, UnavailableError
from handshaked.registry.registration import Grant
from handshaked.registry.schema import SCHEMA_VERSION, open_for_reading, open_for_writing
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import Source

FIRST = Path(__file__).with_name("schema-1.sql")


def of_version_1(path: Path) -> None:
    """A database of handshaked 0.1 with a registration."""
    db = sqlite3.connect(path)
    db.executescript(FIRST.read_text())
    db.close()


def test_registrations_survive_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    of_version_1(path)
    store = SqliteRegistryWriter(path)
    registration = store.load().named("web")
    assert registration is not None
    assert (registration.owner, registration.server_names, registration.alpns) == (1000, ("a.example.com",), (b"h3",))
    assert registration.origin == ""
    [details] = store.details(registration)
    assert details.source == Source("/etc/c.pem", "/etc/k.pem", "")
    assert store.credential(details.reference.id).chain[0]
    store.add_grant(Grant(0, 1000, None, (), (b"h3",)))
    store.close()
    SqliteRegistryReader(path).close()


def test_newer_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    SqliteRegistryWriter(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(RefusedError, match=r"made by a newer handshaked.*install that version again"):
        open_for_writing(path)
    with pytest.raises(RefusedError, match="restart it"):
        open_for_reading(path)
    assert path.read_bytes() == before
    process = subprocess.run(
        [sys.executable, "-m", "handshaked.daemon", f"--state-directory={tmp_path}", f"--runtime-directory={tmp_path}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert process.returncode == 1
    assert "made by a newer handshaked" in process.stderr


def test_unknown_setting_is_refused_not_ignored(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    of_version_1(path)
    SqliteRegistryWriter(path).close()
    db = sqlite3.connect(path)
    db.execute("UPDATE registration SET policy = '{\"tickets\": 2}'")
    db.commit()
    [registration] = SqliteRegistryReader(path).load().registrations
    assert registration.policy == Policy(tickets=2)
    db.execute("UPDATE registration SET policy = '{\"require_moon_phase\": true}'")
    db.commit()
    db.close()
    with pytest.raises(RefusedError, match=r"unknown setting require_moon_phase.*install that version again"):
        SqliteRegistryReader(path).load()


def test_migration_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    of_version_1(path)
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE grant_ (in_the_way)")
    db.close()
    with pytest.raises(UnavailableError, match="grant_ already exists"):
        open_for_writing(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert "origin" not in [column[1] for column in db.execute("PRAGMA table_info(registration)")]
    db.close()


def test_damaged_database_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UnavailableError, match="restore it from a backup"):
        open_for_writing(path)
