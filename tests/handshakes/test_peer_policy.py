"""The configured files of the kernel's sides: unusable ones are refused at once, without blocking."""

import dataclasses
import os
from pathlib import Path

import pytest

from handshaked.configuration.handshaked_toml import SideDefaults
from handshaked.errors import Alert, PeerError, RefusedError
from handshaked.handshakes.peer_policy import load_side
from handshaked.model import Role
from handshaked.tls.x509.readers import MAX_LIST
from tests.certificates import DAY, NOW, client, crl_pem, revocation_list
from tests.conftest import Issue
from tests.tls.x509.chains import INTERMEDIATE, ROOT


@pytest.mark.parametrize("name", ["trust", "revocation_lists", "certificate"])
def test_fifo_is_refused_without_blocking(tmp_path: Path, issue: Issue, name: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    defaults = SideDefaults(private_key=issue("a.example.com").key) if name == "certificate" else SideDefaults()
    value = (path,) if name == "revocation_lists" else path
    with pytest.raises(RefusedError, match=f"{path}: not a regular file"):
        load_side(dataclasses.replace(defaults, **{name: value}), Role.CLIENT)


def test_revocation_list_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crl"
    with path.open("wb") as file:
        file.truncate(MAX_LIST + 2)
    with pytest.raises(RefusedError, match=f"{path}: {MAX_LIST + 2} bytes, the limit is {MAX_LIST}"):
        load_side(SideDefaults(revocation_lists=(path,)), Role.CLIENT)


LEAF = client(ROOT)
LIST = revocation_list(ROOT, [LEAF])


@pytest.mark.parametrize(
    "content",
    [LIST, crl_pem(LIST), crl_pem(revocation_list(INTERMEDIATE)) + crl_pem(LIST)],
    ids=["der", "pem", "second"],
)
def test_every_configured_revocation_list_is_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.pem)
    (tmp_path / "list.crl").write_bytes(content)
    defaults = SideDefaults(trust=tmp_path / "ca.pem", revocation_lists=(tmp_path / "list.crl",))
    verifier = load_side(defaults, Role.SERVER).clients
    assert verifier is not None
    with pytest.raises(PeerError) as caught:
        verifier.verify((LEAF.der,), NOW.timestamp())
    assert caught.value.alert is Alert.CERTIFICATE_REVOKED


def test_list_past_its_next_update_is_accepted_for_the_configured_grace_and_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.pem)
    (tmp_path / "list.crl").write_bytes(LIST)
    defaults = SideDefaults(trust=tmp_path / "ca.pem", revocation_lists=(tmp_path / "list.crl",))
    end = (NOW + DAY).timestamp()
    for grace, words in ((0.0, "certificates of that issuer are refused"), (0.5, "still accepted until")):
        side = load_side(dataclasses.replace(defaults, revocation_list_grace=grace), Role.SERVER)
        assert side.clients is not None
        assert [notice.is_due(end - 1) for notice in side.notices].count(True) == 0
        (notice,) = (notice for notice in side.notices if notice.is_due(end))
        assert words in notice.text
        side.clients.verify((client(ROOT).der,), end + grace * 3600)
        with pytest.raises(PeerError, match="is out of date"):
            side.clients.verify((client(ROOT).der,), end + grace * 3600 + 1)


def test_certificates_left_out_of_a_trust_store_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.pem + INTERMEDIATE.pem.replace(b"\nMII", b"\n?MII"))
    side = load_side(SideDefaults(trust=tmp_path / "ca.pem"), Role.SERVER)
    (notice,) = side.notices
    assert "certificate 2" in notice.text or "CERTIFICATE block" in notice.text


@pytest.mark.parametrize("content", [b"", b"junk", LIST[:-1], crl_pem(LIST)[:-9]])
def test_unreadable_revocation_list_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.pem)
    (tmp_path / "list.crl").write_bytes(content)
    defaults = SideDefaults(trust=tmp_path / "ca.pem", revocation_lists=(tmp_path / "list.crl",))
    with pytest.raises(RefusedError, match=rf"^\[server\] {tmp_path}/list\.crl: "):
        load_side(defaults, Role.SERVER)
