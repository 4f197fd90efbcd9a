"""The system's trust store follows its file, and outlives damage to it."""

import logging
import os
from pathlib import Path

import pytest

from handshaked.errors import LocalError
from handshaked.handshakes.system_trust import SystemTrust
from tests.certificates import root

FIRST, SECOND = root("first"), root("second")


def replace(path: Path, content: bytes) -> None:
    """As update-ca-certificates does."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


def test_a_root_that_was_removed_is_no_longer_trusted(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(FIRST.pem + SECOND.pem)
    trust = SystemTrust(path)
    assert trust.store().has(FIRST.certificate)
    assert trust.store() is trust.store()
    replace(path, SECOND.pem)
    assert not trust.store().has(FIRST.certificate)
    assert trust.store().has(SECOND.certificate)


def test_the_last_good_store_stays_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(FIRST.pem)
    trust = SystemTrust(path)
    good = trust.store()
    with caplog.at_level(logging.ERROR):
        replace(path, b"junk")
        assert trust.store() is good
        assert trust.store() is good
    (record,) = caplog.records
    assert record.getMessage().endswith("; the last good one stays in use")
    replace(path, SECOND.pem)
    assert trust.store().has(SECOND.certificate)


def test_without_any_good_store_handshakes_fail(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="the system's trust store cannot be used"):
        SystemTrust(tmp_path / "missing").store()
