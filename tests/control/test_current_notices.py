"""Notices are logged once when they become true and once when they no longer are, and known to the commands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handshaked.control.current_notices import CurrentNotices
from handshaked.errors import DamagedError, UnavailableError
from handshaked.registry.credentials import load_pem, with_ocsp_response
from handshaked.registry.expiry import DAY
from handshaked.registry.notices import Notice
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import ClientTrust, NewRegistration, Source
from tests import certificates as make
from tests.certificates import revocation_list, root, server
from tests.ocsp_responses import ocsp_response
from tests.tls.x509.test_readers import VERSION_4, pem

NOW = make.NOW.timestamp()
ROOT = root()
LEAF = server(ROOT)


def new(name: str, *server_names: str, staple: bool = False, trust: ClientTrust | None = None) -> NewRegistration:
    key = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded = load_pem(LEAF.pem, key)
    if staple:
        loaded = with_ocsp_response(loaded, ocsp_response(LEAF.certificate, ROOT.certificate), name="ocsp")
    policy = Policy(client_auth="require") if trust else Policy()
    return NewRegistration(
        name, 0, server_names, (name.encode(),), ((loaded, Source()),), policy=policy, client_trust=trust
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteRegistryWriter]:
    store = SqliteRegistryWriter(tmp_path / "registry.db")
    yield store
    store.close()


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_notices_of_registrations_are_logged_once_and_when_they_end(
    store: SqliteRegistryWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    notices = CurrentNotices(store)
    store.register(new("good", "a.example"))
    store.register(new("uncovered", "b.example"))
    store.register(new("stapled", "a.example", staple=True))

    async def follow(now: float) -> None:
        await notices.follow(store.load(), now)

    asyncio.run(follow(NOW))
    ((level, text),) = logged(caplog)
    assert (level, text.partition(":")[0]) == (logging.WARNING, "uncovered")
    asyncio.run(follow(NOW + 1))
    assert logged(caplog) == []
    asyncio.run(follow(NOW + DAY))
    ((level, text),) = logged(caplog)
    assert (level, text.partition(":")[0]) == (logging.WARNING, "stapled")
    store.unregister("uncovered")
    asyncio.run(follow(NOW + DAY))
    ((level, text),) = logged(caplog)
    assert (level, text.partition(" the")[0]) == (logging.INFO, "no longer: uncovered:")


def test_trust_of_a_registration_is_examined(store: SqliteRegistryWriter, caplog: pytest.LogCaptureFixture) -> None:
    trust = ClientTrust(ROOT.pem + pem(VERSION_4), revocation_list(ROOT), "/ca", "/crl")
    registration = store.register(new("web", "a.example", trust=trust))
    notices = CurrentNotices(store)
    asyncio.run(notices.follow(store.load(), NOW))
    snapshot = store.load()
    (left_out,) = notices.of(registration, NOW)
    assert left_out.startswith("/ca: line ")
    assert "(CN=leaf)" in left_out
    assert [text.partition(": ")[0] for text in notices.about(snapshot.registrations, NOW)] == ["web"]
    assert len(notices.of(registration, NOW + DAY)) == 2
    assert len(logged(caplog)) == 1


@pytest.mark.parametrize("fault", [IndexError("secret"), DamagedError("a row cannot be decoded")])
def test_registration_that_cannot_be_examined_costs_no_other(
    store: SqliteRegistryWriter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    trust = ClientTrust(ROOT.pem, "", "/ca", "")
    store.register(new("bad", "a.example", trust=trust))
    store.register(new("uncovered", "b.example"))

    def fail(_: object) -> NoReturn:
        raise fault

    monkeypatch.setattr(store, "trust", fail)
    notices = CurrentNotices(store)
    snapshot = store.load()
    for _ in range(2):
        asyncio.run(notices.follow(snapshot, NOW))
    found = dict(text.split(": ", 1) for text in notices.about(snapshot.registrations, NOW))
    assert found["bad"].startswith("the registration cannot be examined: ")
    assert "uncovered" in found
    assert "secret" not in caplog.text
    assert len(logged(caplog)) == 2 + isinstance(fault, IndexError), "once, with the place of an unexpected error"


def test_notices_wait_for_a_registry_that_cannot_be_read(
    store: SqliteRegistryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = store.register(new("web", "a.example", trust=ClientTrust(ROOT.pem + pem(VERSION_4), "", "/ca", "")))
    notices = CurrentNotices(store)

    def fail(_: object) -> NoReturn:
        raise UnavailableError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(store, "trust", fail)
        with pytest.raises(UnavailableError):
            asyncio.run(notices.follow(store.load(), NOW))
    asyncio.run(notices.follow(store.load(), NOW))
    assert len(notices.of(registration, NOW)) == 1


def test_notices_about_settings_are_logged_once(store: SqliteRegistryWriter, caplog: pytest.LogCaptureFixture) -> None:
    notices = CurrentNotices(store)
    notices.settings = (Notice("[server] late", since=NOW), Notice("[server] early", until=NOW))
    assert notices.about_settings(NOW - 1) == ["[server] early"]
    assert notices.about_settings(NOW) == ["[server] late"]
    notices.log_new(NOW)
    notices.log_new(NOW + 1)
    assert logged(caplog) == [(logging.WARNING, "[server] late")]


def test_many_registrations_are_all_examined(store: SqliteRegistryWriter) -> None:
    store.register_all(new(f"r{number}", "b.example") for number in range(205))
    notices = CurrentNotices(store)
    snapshot = store.load()
    asyncio.run(notices.follow(snapshot, NOW))
    assert len(list(notices.about(snapshot.registrations, NOW))) == 205
