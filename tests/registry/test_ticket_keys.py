"""Rotation of session ticket keys in the store, and clocks that jump."""

import contextlib
from pathlib import Path

from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.system.directories import DATABASE
from handshaked.tls.tickets import RotatingTicketKeys


def test_ticket_keys_are_created_ahead_of_time_and_expire(tmp_path: Path) -> None:
    day = 24 * 3600.0
    store = SqliteRegistryWriter(tmp_path / DATABASE)
    assert store.rotate_ticket_keys(now=0.0)
    assert not store.rotate_ticket_keys(now=1000.0)
    assert store.rotate_ticket_keys(now=day - 1000.0)  # needed in less than an hour, and workers must have it by then
    assert [begins for begins, _ in store.ticket_keys()] == [0.0, day]
    assert store.rotate_ticket_keys(now=9 * day)  # after a long suspend
    assert [begins for begins, _ in store.ticket_keys()] == [day, 9 * day]
    assert len({secret for _, secret in store.ticket_keys()}) == 2
    store.close()


def test_tickets_are_issued_after_clock_was_ahead(tmp_path: Path) -> None:
    day = 24 * 3600.0
    with contextlib.closing(SqliteRegistryWriter(tmp_path / DATABASE)) as store:
        store.rotate_ticket_keys(now=day)
        store.rotate_ticket_keys(now=3650 * day)
        for now in (day, 2 * day, 3 * day, 30 * day):
            store.rotate_ticket_keys(now)
            key = RotatingTicketKeys(store.ticket_keys()).sealing(now)
            assert key is not None
            assert now - day <= key.created <= now


def test_tickets_stay_valid_after_clock_was_behind(tmp_path: Path) -> None:
    day = 24 * 3600.0
    with contextlib.closing(SqliteRegistryWriter(tmp_path / DATABASE)) as store:
        store.rotate_ticket_keys(now=20000 * day)
        before = RotatingTicketKeys(store.ticket_keys()).sealing(20000 * day)
        assert store.rotate_ticket_keys(now=0.0)
        assert RotatingTicketKeys(store.ticket_keys()).opening(before.identifier, 20000 * day) is not None
