"""The record of tickets used for early data: bounded, and refusing when in doubt."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest

from handshaked.registry.replay import CLOCK_TOLERANCE, ReplayRecord
from tests.damage import damage

SMALL = 8  # pages
HOUR = 3600.0
BEGIN = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replay.db"


@pytest.fixture
def record(path: Path) -> Iterator[ReplayRecord]:
    with closing(ReplayRecord(path, clock=lambda: BEGIN)) as made:
        yield made


def use(record: ReplayRecord, ticket: bytes, issued: float, now: float, lifetime: float = HOUR) -> bool:
    """Use a ticket at `now` that was issued at `issued`, both in seconds after BEGIN."""
    return record.first_use(ticket, BEGIN + issued, BEGIN + issued + lifetime, BEGIN + now)


def test_full_record_refuses_early_data_until_tickets_expire(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ReplayRecord(path, SMALL, clock=lambda: 0.0)) as record:
        used = [number.to_bytes(16) for number in islice(count(), 2000)]
        taken = [ticket for ticket in used if record.first_use(ticket, issued=5.0, expires=20.0, now=10.0)]
        assert 100 < len(taken) < 1000
        assert not any(record.first_use(ticket, issued=5.0, expires=20.0, now=10.0) for ticket in used)
        assert path.stat().st_size <= SMALL * 4096
        assert 1 <= len(caplog.records) <= 5  # once in a thousand
        assert "database or disk is full" in caplog.text
        later = [number.to_bytes(16) for number in islice(count(10_000), 1100)]
        now = 20.0 + CLOCK_TOLERANCE + 2
        assert any(record.first_use(ticket, issued=now, expires=now + 20, now=now) for ticket in later)


def test_locked_record_refuses_early_data(path: Path, record: ReplayRecord) -> None:
    other = ReplayRecord(path)
    assert use(record, b"a", issued=5, now=10)
    assert not use(other, b"a", issued=5, now=11)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert not use(other, b"b", issued=5, now=11)
    blocker.execute("ROLLBACK")
    assert use(other, b"b", issued=5, now=11)
    for each in (other, blocker):
        each.close()


def test_kept_record_accepts_tickets_of_before(path: Path, record: ReplayRecord) -> None:
    assert use(record, b"a", issued=5, now=10)
    record.close()
    with closing(ReplayRecord(path, clock=lambda: BEGIN + 100)) as later:
        assert not use(later, b"a", issued=5, now=101)
        assert use(later, b"b", issued=5, now=101)


def test_lost_record_refuses_tickets_of_before_while_they_are_valid(path: Path, record: ReplayRecord) -> None:
    """RFC 8446 section 8.2."""
    assert use(record, b"a", issued=5, now=10)
    record.close()
    for file in path.parent.iterdir():
        file.unlink()
    first, second = (ReplayRecord(path, clock=lambda: BEGIN + 100), ReplayRecord(path, clock=lambda: BEGIN + 200))
    with closing(first) as later, closing(second) as other:
        assert not use(later, b"a", issued=5, now=101)
        assert use(later, b"b", issued=101, now=102)
        assert use(other, b"c", issued=101, now=202)  # workers share the record, and so its beginning
        for one in (later, other):
            assert not use(one, b"a", issued=5, now=203)
            assert not use(one, b"d", issued=99, now=HOUR + 98)


def test_record_of_an_older_release_refuses_tickets_of_before(path: Path) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("CREATE TABLE used (ticket BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID")
    old.close()
    with closing(ReplayRecord(path, clock=lambda: BEGIN)) as record:
        assert not use(record, b"a", issued=-1, now=1)
        assert use(record, b"b", issued=1, now=1)


def test_record_removed_while_in_use_begins_anew(path: Path) -> None:
    now = BEGIN
    with closing(ReplayRecord(path, clock=lambda: now)) as record:
        assert use(record, b"a", issued=5, now=10)
        for file in path.parent.iterdir():
            file.unlink()
        now = BEGIN + 12
        assert not use(record, b"b", issued=11, now=12)
        assert path.exists()
        assert use(record, b"c", issued=12, now=13)
        assert record.created == now
        with closing(ReplayRecord(path)) as other:
            assert not use(other, b"c", issued=12, now=13)


def test_damaged_record_is_moved_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = b"not a database" * 100
    path.write_bytes(content)
    with closing(ReplayRecord(path, clock=lambda: BEGIN)) as record, closing(ReplayRecord(path)) as other:
        assert record.created == other.created == BEGIN
        assert not use(record, b"a", issued=-1, now=10)
        assert use(record, b"b", issued=5, now=10)
        assert not use(other, b"b", issued=5, now=10)
    assert path.with_name("replay.db.damaged").read_bytes() == content
    [logged] = caplog.records
    assert "is damaged (file is not a database)" in logged.getMessage()


def test_record_damaged_while_in_use_is_replaced_for_all(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = BEGIN
    with closing(ReplayRecord(path, clock=lambda: now)) as record:
        assert use(record, b"a", issued=5, now=10)
    with closing(ReplayRecord(path)) as record, closing(ReplayRecord(path)) as other:
        damage(path)
        now = BEGIN + 100
        with closing(ReplayRecord(path, clock=lambda: now)) as third:  # a restarted worker
            assert use(third, b"b", issued=101, now=102)
            for one in (record, other):
                assert not use(one, b"a", issued=5, now=102)
                assert not use(one, b"b", issued=101, now=102)
            assert record.created == other.created == third.created == now
    assert len(caplog.records) == 1


def test_moment_of_creation_survives_a_restart(path: Path, record: ReplayRecord) -> None:
    with closing(ReplayRecord(path)) as again:
        assert again.created == record.created == BEGIN


def test_unusable_record_refuses_early_data_until_it_is_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "replay.db"
    now = 0.0
    monkeypatch.setattr("handshaked.registry.replay.time.monotonic", lambda: now)
    with closing(ReplayRecord(path, clock=lambda: BEGIN)) as record:
        assert record.created is None
        assert not use(record, b"a", issued=5, now=10)
        path.parent.mkdir()
        assert not use(record, b"a", issued=5, now=10)  # not tried again for each client
        now = 1.0
        assert use(record, b"a", issued=5, now=10)
    [logged] = caplog.records
    assert "No such file or directory" in logged.getMessage()


@pytest.mark.parametrize("restarted", [False, True])
def test_clock_set_back_refuses_tickets_until_it_has_caught_up(
    path: Path, record: ReplayRecord, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    assert use(record, b"a", issued=5000, now=5010)
    later = ReplayRecord(path, clock=lambda: BEGIN + 1000) if restarted else record
    assert not use(later, b"b", issued=990, now=1000)
    assert not use(later, b"c", issued=1010, now=1020)
    assert not use(later, b"d", issued=5009, now=5011)
    assert use(later, b"e", issued=5011, now=5012)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "set back by 4010 s" in caplog.text
    later.close()


def test_clock_set_back_twice_refuses_until_the_latest_time(record: ReplayRecord) -> None:
    assert use(record, b"a", issued=5000, now=5010)
    assert not use(record, b"b", issued=3000, now=3000)
    assert not use(record, b"c", issued=1000, now=1000)
    assert not use(record, b"d", issued=5000, now=5012)
    assert use(record, b"e", issued=5011, now=5013)


def test_small_step_of_the_clock_has_no_effect(record: ReplayRecord) -> None:
    assert use(record, b"a", issued=5000, now=5010)
    assert use(record, b"b", issued=4940, now=5010 - CLOCK_TOLERANCE)


def test_use_is_remembered_across_a_small_step_of_the_clock(record: ReplayRecord) -> None:
    """A ticket that was purged as expired must not become valid again."""
    assert use(record, b"a", issued=0, now=90, lifetime=100)
    for number in range(1001):
        use(record, b"x%d" % number, issued=100, now=100 + CLOCK_TOLERANCE)
    assert not use(record, b"a", issued=0, now=100, lifetime=100)
