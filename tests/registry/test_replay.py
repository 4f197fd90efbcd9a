"""The record of tickets used for early data: bounded, and refusing when in doubt."""

import sqlite3
import time
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest

from handshaked.registry.replay import ReplayRecord
from tests.damage import damage

SMALL = 8  # pages


def created(record: ReplayRecord) -> float:
    """Return the creation time of a usable record."""
    assert record.created is not None
    return record.created


def test_full_record_refuses_early_data_until_tickets_expire(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "replay.db"
    with closing(ReplayRecord(path, SMALL)) as record:
        used = [number.to_bytes(16) for number in islice(count(), 2000)]
        taken = [ticket for ticket in used if record.first_use(ticket, expires=20.0, now=10.0)]
        assert 100 < len(taken) < 1000
        assert not any(record.first_use(ticket, expires=20.0, now=10.0) for ticket in used)
        assert path.stat().st_size <= SMALL * 4096
        assert 1 <= len(caplog.records) <= 5  # once in a thousand
        assert "database or disk is full" in caplog.text
        later = [number.to_bytes(16) for number in islice(count(10_000), 1100)]
        assert any(record.first_use(ticket, expires=40.0, now=21.0) for ticket in later)


def test_locked_record_refuses_early_data(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    record, other = ReplayRecord(path), ReplayRecord(path)
    assert record.first_use(b"a", expires=20.0, now=10.0)
    assert not other.first_use(b"a", expires=20.0, now=11.0)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert not other.first_use(b"b", expires=20.0, now=11.0)
    blocker.execute("ROLLBACK")
    assert other.first_use(b"b", expires=20.0, now=11.0)
    for each in (record, other, blocker):
        each.close()


def test_damaged_record_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "replay.db"
    content = b"not a database" * 100
    path.write_bytes(content)
    before = time.time()
    with closing(ReplayRecord(path)) as record, closing(ReplayRecord(path)) as other:
        assert before <= created(record) <= time.time()
        assert other.created == record.created
        assert record.first_use(b"a", expires=20.0, now=10.0)
        assert not other.first_use(b"a", expires=20.0, now=10.0)
    assert (tmp_path / "replay.db.damaged").read_bytes() == content
    [logged] = caplog.records
    assert "is damaged (file is not a database)" in logged.getMessage()


def test_record_damaged_while_in_use_is_replaced_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "replay.db"
    with closing(ReplayRecord(path)) as record:
        assert record.first_use(b"a", expires=20.0, now=10.0)
    with closing(ReplayRecord(path)) as record, closing(ReplayRecord(path)) as other:
        damage(path)
        with closing(ReplayRecord(path)) as third:  # a restarted worker
            assert third.first_use(b"b", expires=20.0, now=10.0)
            assert not record.first_use(b"b", expires=20.0, now=10.0)
            assert not other.first_use(b"b", expires=20.0, now=10.0)
            assert record.created == other.created == third.created
    assert len(caplog.records) == 1


def test_removed_record_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    with closing(ReplayRecord(path)) as record:
        first = created(record)
        for file in tmp_path.iterdir():
            file.unlink()
        assert record.first_use(b"a", expires=20.0, now=10.0)
        assert created(record) > first
    assert path.exists()


def test_moment_of_creation_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "replay.db"
    with closing(ReplayRecord(path)) as record:
        created = record.created
    with closing(ReplayRecord(path)) as record:
        assert record.created == created


def test_unusable_record_refuses_early_data_until_it_is_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "replay.db"
    now = 0.0
    monkeypatch.setattr("handshaked.registry.replay.time.monotonic", lambda: now)
    with closing(ReplayRecord(path)) as record:
        assert record.created is None
        assert not record.first_use(b"a", expires=20.0, now=10.0)
        path.parent.mkdir()
        assert not record.first_use(b"a", expires=20.0, now=10.0)  # not tried again for each client
        now = 1.0
        assert record.first_use(b"a", expires=20.0, now=10.0)
    [logged] = caplog.records
    assert "No such file or directory" in logged.getMessage()
