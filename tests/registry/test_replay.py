"""The record of tickets used for early data: bounded, and refusing when in doubt."""

import sqlite3
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest

from handshaked.registry.replay import ReplayRecord

SMALL = 8  # pages


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
