"""Notices say what is wrong with credentials, trust stores and revocation lists, and from when on."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handshaked.registry.credentials import load_pem
from handshaked.registry.expiry import DAY, HOUR
from handshaked.registry.notices import Notice, credential_notices, expiry_notices, trust_notices
from handshaked.registry.store import ClientTrust
from tests import certificates as make
from tests.certificates import CLIENT, SERVER, client, crl_pem, revocation_list, root, server
from tests.ocsp_responses import MUST_STAPLE, ocsp_response

NOW = make.NOW.timestamp()
ROOT = root()
LEAF = server(ROOT)
STAPLE = server(ROOT, SERVER, MUST_STAPLE)
NAMES = ("a.example",)
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def due(notices: Iterable[Notice], now: float = NOW) -> list[str]:
    return [notice.text for notice in notices if notice.is_due(now)]


def test_uncovered_names_are_named() -> None:
    assert due(credential_notices(NAMES, (LEAF.der,), None)) == []
    (said,) = due(credential_notices((*NAMES, "b.example"), (LEAF.der,), None))
    assert said.startswith("the certificate CN=leaf does not cover b.example: ")
    many = tuple(f"{number}.example" for number in range(100))
    (said,) = due(credential_notices(many, (LEAF.der,), None))
    assert "0.example, 1.example, 2.example, 3.example, 4.example and 95 more" in said


def test_a_certificate_for_clients_is_named_if_it_serves_names() -> None:
    leaf = server(ROOT, CLIENT)
    (said,) = due(credential_notices(NAMES, (leaf.der,), None))
    assert "is not for servers by its extended key usage" in said
    assert due(credential_notices((), (client(ROOT).der,), None)) == []


def test_an_ocsp_response_is_named_from_its_end_on() -> None:
    for leaf, must in ((LEAF, False), (STAPLE, True)):
        notices = list(credential_notices(NAMES, (leaf.der,), ocsp_response(leaf.certificate, ROOT.certificate)))
        assert due(notices, NOW + DAY - 1) == []
        (said,) = due(notices, NOW + DAY)
        assert said.startswith("the OCSP response for CN=leaf has been out of date since 2026-11-25 12:00 UTC")
        assert ("must-staple" in said) is must


def test_must_staple_without_a_response_is_named() -> None:
    (said,) = due(credential_notices(NAMES, (STAPLE.der,), None))
    assert "there is no OCSP response for CN=leaf to staple" in said


def test_a_revocation_list_is_named_from_its_next_update_on() -> None:
    lists = crl_pem(revocation_list(ROOT, end=make.NOW - make.DAY / 2)) + crl_pem(revocation_list(ROOT))
    trust = ClientTrust(ROOT.pem, lists, "/ca", "/crl")
    notices = list(trust_notices(trust, 0))
    assert due(notices, NOW + DAY - 1) == []
    (said,) = due(notices, NOW + DAY)
    assert "the revocation list of CN=root has been out of date since 2026-11-25 12:00 UTC: certificates of" in said
    with_grace = list(trust_notices(trust, 2))
    assert due(with_grace, NOW + DAY - 1) == []
    (said,) = due(with_grace, NOW + DAY)
    assert "still accepted until 2026-11-25 14:00 UTC" in said
    assert due(with_grace, NOW + DAY + 2 * HOUR) == [due(notices, NOW + DAY)[0]]


def test_a_grace_period_may_end_after_the_last_year() -> None:
    trust = ClientTrust(ROOT.pem, revocation_list(ROOT, end=NEVER), "/ca", "/crl")
    notices = list(trust_notices(trust, 1))
    assert due(notices) == []
    (said,) = due(notices, NEVER.timestamp())
    assert "out of date since 9999-12-31 23:59 UTC, and is still accepted until never" in said


def test_a_list_of_the_future_is_named_until_it_begins() -> None:
    trust = ClientTrust(ROOT.pem, revocation_list(ROOT, begin=make.NOW + make.DAY / 2), "/ca", "/crl")
    notices = list(trust_notices(trust, 0))
    (said,) = due(notices)
    assert "the revocation list of CN=root is not valid before 2026-11-25 00:00 UTC" in said
    assert due(notices, NOW + DAY / 2) == []


def test_roots_that_are_left_out_are_named_up_to_a_number() -> None:
    bad = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % base64.encodebytes(b"\x30\x00")
    notices = due(trust_notices(ClientTrust(ROOT.pem + bad * 12, b"", "/ca"), 0))
    assert notices[0].startswith(f"/ca: line {len(ROOT.pem.splitlines()) + 1}: certificate 2: ")
    assert notices[0].endswith("this certificate is not trusted, the others are")
    assert (len(notices), notices[-1]) == (11, "2 more certificates of that file are not trusted")


def test_trust_that_can_no_longer_be_read_is_named() -> None:
    (said,) = due(trust_notices(ClientTrust(b"junk", b"", "/ca"), 0))
    assert said.startswith("client certificates cannot be verified: /ca: no certificate in PEM form")


def test_expiry_of_a_credential_without_registration_is_named() -> None:
    key = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loaded = load_pem(LEAF.pem, key)
    notices = list(expiry_notices(loaded, "/cert"))
    assert due(notices) == []
    assert due(notices, loaded.not_after - 9 * DAY)[0].startswith("/cert: the certificate CN=leaf expires on")
    assert due(notices, loaded.not_after)[0].startswith("/cert: the certificate CN=leaf expired on")
    must = list(expiry_notices(load_pem(STAPLE.pem, key), "/cert"))
    assert "must-staple" in due(must)[0]
