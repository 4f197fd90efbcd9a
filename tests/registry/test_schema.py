"""Databases of older versions are migrated with all their content; newer ones are refused."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from handshaked.errors import RefusedError, UnavailableError
from handshaked.model import KeyType
from handshaked.registry.registration import Grant
from handshaked.registry.rows import join
from handshaked.registry.schema import SCHEMA_VERSION, open_for_reading, open_for_writing
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import Source
from tests import raw_certificates as raw
from tests.certificates import key

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


@pytest.mark.parametrize(
    ("parameters", "key_type"),
    [
        ((), KeyType.RSA_PSS),
        (("sha384", "sha384", 48), KeyType.RSA_PSS_SHA384),
        (("sha512", "sha1", 20), KeyType.RSA_PSS),  # no scheme fits it
    ],
)
def test_restricted_rsa_pss_keys_get_their_type(
    tmp_path: Path, parameters: tuple[object, ...], key_type: KeyType
) -> None:
    """Up to schema 3, their type did not name the digest that their certificate allows."""
    path = tmp_path / "registry.db"
    SqliteRegistryWriter(path).close()
    algorithm = raw.pss_algorithm(*parameters)
    leaf = raw.certificate(key("rsa2048"), raw.common_name("a"), None, key_algorithm=algorithm)
    db = sqlite3.connect(path)
    db.execute(
        "INSERT INTO credential (digest, key_type, subject, not_before, not_after, chain, key)"
        " VALUES (x'00', 'rsa-pss', 'CN=a', 0, 0, ?, x'00')",
        (join((leaf.der,), 4),),
    )
    db.execute("PRAGMA user_version = 3")
    db.commit()
    db.close()
    migrated = open_for_writing(path)
    assert migrated.execute("SELECT key_type FROM credential").fetchall() == [(key_type.value,)]
    migrated.close()
