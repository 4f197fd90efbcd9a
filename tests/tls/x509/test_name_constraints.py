"""Name constraints of every form: names that they contain, exclude, or cannot be compared with (RFC 5280 4.2.1.10)."""

from __future__ import annotations

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509.readers import read_trust_anchors
from handshaked.tls.x509.verification import ClientChainVerifier
from tests import raw_certificates as raw
from tests.certificates import NOW, key
from tests.raw_certificates import (
    address,
    common_name,
    directory,
    dns,
    mail,
    name,
    other_name,
    registered_id,
    uri,
    utf8,
)

ROOT = raw.certificate(key("p256", 100), common_name("root"), None, raw.basic_constraints(True))
T = NOW.timestamp()
COUNTRY, ORGANIZATION, COMMON, MAIL_ADDRESS = "2.5.4.6", "2.5.4.10", "2.5.4.3", "1.2.840.113549.1.9.1"
NETWORK = address(bytes((192, 0, 2, 0, 255, 255, 255, 0)))
NETWORK_6 = address(bytes.fromhex("20010db8") + bytes(12) + b"\xff" * 4 + bytes(12))


def verify(constraints: bytes, *names: bytes, subject: bytes | None = None, between: bytes | None = None) -> None:
    """Verify a client with these names below an intermediate; `between` is the subject of another below that."""
    middle = raw.certificate(key("p256", 101), common_name("middle"), ROOT, raw.basic_constraints(True), constraints)
    chain = [middle]
    if between is not None:
        chain.insert(0, raw.certificate(key("p256", 102), between, middle, raw.basic_constraints(True)))
    extensions = [raw.alternative_names(*names)] if names else []
    leaf = raw.certificate(key("p256"), common_name("leaf") if subject is None else subject, chain[0], *extensions)
    trust = read_trust_anchors([ROOT.der], "trust")
    ClientChainVerifier(trust).verify(tuple(each.der for each in (leaf, *chain)), T)


def refused(constraints: bytes, *names: bytes, saying: str, **options: bytes) -> None:
    with pytest.raises(PeerError, match=saying) as caught:
        verify(constraints, *names, **options)
    assert caught.value.alert is Alert.BAD_CERTIFICATE


def organization(text: str, *more: tuple[str, bytes]) -> bytes:
    return name((ORGANIZATION, utf8(text)), *more)


FORMS = [
    (
        dns("a.example"),
        ["a.example", "A.Example", "b.a.example", "*.a.example"],
        ["xa.example", "example", "a.example.b"],
    ),
    # As OpenSSL, GnuTLS and Go take it: at least one label more.
    (dns(".example"), ["a.example", "b.a.example", "*.example"], ["example", "aexample"]),
    (dns(""), ["a.example"], []),
]
URIS = [
    (
        uri("a.example"),
        ["spiffe://a.example/x", "https://u@A.example:1/x?y", "x://a.example#a"],
        ["spiffe://b.a.example"],
    ),
    (uri(".example"), ["spiffe://a.example/x", "x://b.a.example"], ["spiffe://example/x", "x://evil/a.example"]),
    (uri("a.example"), [], ["x://a.example@evil", "x://evil?a.example", "x://evil#@a.example", "x://evil\\@b"]),
]
MAILS = [
    (mail("a@example"), ["a@example", "a@EXAMPLE"], ["b@example", "A@example", "a@b.example"]),
    (mail("example"), ["a@example", '"a@b"@example'], ["a@b.example", "a@example.b"]),
    (mail(".example"), ["a@b.example"], ["a@example"]),
]
CASES = [
    (base, form(text), good)
    for forms, form in ((FORMS, dns), (URIS, uri), (MAILS, mail))
    for base, inside, outside in forms
    for texts, good in ((inside, True), (outside, False))
    for text in texts
] + [
    (NETWORK, address(bytes((192, 0, 2, 77))), True),
    (NETWORK, address(bytes((192, 0, 3, 77))), False),
    (NETWORK, address(bytes.fromhex("20010db8") + bytes(12)), False),
    (NETWORK_6, address(bytes.fromhex("20010db8") + bytes(11) + b"\1"), True),
    (NETWORK_6, address(bytes.fromhex("20010db9") + bytes(12)), False),
    (directory(organization("A")), directory(organization("A", (COMMON, utf8("x")))), True),
    (directory(organization("a  B")), directory(organization(" A b")), True),
    (directory(organization("A")), directory(organization("B")), False),
    (directory(organization("A")), directory(name((COUNTRY, utf8("A")))), False),
    (directory(organization("A", (COMMON, utf8("x")))), directory(organization("A")), False),
]


@pytest.mark.parametrize(("base", "presented", "inside"), CASES)
@pytest.mark.parametrize("critical", [True, None])
def test_names_are_inside_or_outside_a_subtree(base: bytes, presented: bytes, inside: bool, critical: bool | None):
    permitted = raw.name_constraints(permitted=(base,), critical=critical)
    excluded = raw.name_constraints(excluded=(base,), critical=critical)
    empty = name()
    if inside:
        verify(permitted, presented, subject=empty)
        refused(excluded, presented, subject=empty, saying="is excluded")
    else:
        refused(permitted, presented, subject=empty, saying="is not permitted")
        verify(excluded, presented, subject=empty)


def test_wildcard_that_stands_for_an_excluded_name_is_refused():
    """Stricter than OpenSSL, which compares the text only."""
    refused(raw.name_constraints(excluded=(dns("a.example"),)), dns("*.example"), saying="is excluded")
    verify(raw.name_constraints(excluded=(dns("a.b.example"),)), dns("*.example"))
    verify(raw.name_constraints(excluded=(dns(".example"),)), dns("example"))


@pytest.mark.parametrize(
    "text",
    [
        "urn:a",
        "spiffe:/a",
        "x://192.0.2.1/a",
        "x://a%2eexample/",
        "x://a b/",
        "x://a,b",
        "x://[2001:db8::1]/a",
        "x:///a",
        "x://1.2/",
    ],
)
def test_uri_without_a_host_name_is_refused_if_uris_are_constrained(text: str):
    for constraints in (raw.name_constraints((uri("example"),)), raw.name_constraints(excluded=(uri("example"),))):
        refused(constraints, uri(text), saying="cannot be compared")
    verify(raw.name_constraints((dns("example"),)), uri(text))


def test_dns_name_with_a_trailing_dot_is_refused_if_constrained():
    """Stricter than OpenSSL, which compares the text."""
    for constraints in (raw.name_constraints((dns("example"),)), raw.name_constraints(excluded=(dns("example"),))):
        refused(constraints, dns("a.example."), saying="cannot be compared")


@pytest.mark.parametrize("form", [registered_id("1.2.3"), other_name("1.2.3", utf8("a"))])
def test_names_of_forms_without_comparison_are_refused_if_constrained(form: bytes):
    refused(raw.name_constraints((form,)), form, saying="cannot be compared")
    verify(raw.name_constraints((form,)), dns("a.example"))


def test_international_mailbox_is_refused_if_mail_addresses_are_constrained():
    """RFC 9598 section 6; the form is not compared."""
    mailbox = other_name("1.3.6.1.5.5.7.8.9", utf8("a@b.example"))
    for constraints in (raw.name_constraints((mail("b.example"),)), raw.name_constraints(excluded=(mail("a.test"),))):
        refused(constraints, mailbox, saying="cannot be compared")
    verify(raw.name_constraints((dns("example"),)), mailbox)


def test_all_names_of_all_certificates_below_are_checked():
    constraints = raw.name_constraints((directory(organization("A")), dns("example"), mail("example")))
    good = organization("A", (COMMON, utf8("x")))
    verify(constraints, dns("a.example"), subject=good, between=good)
    refused(constraints, dns("a.example"), dns("a.test"), subject=good, saying="a.test is not permitted")
    refused(constraints, subject=good, between=organization("B"), saying="is not permitted")
    refused(
        constraints, subject=organization("A", (MAIL_ADDRESS, tlv_mail("a@test"))), saying="a@test is not permitted"
    )
    verify(constraints, subject=organization("A", (MAIL_ADDRESS, tlv_mail("a@example"))))
    verify(constraints, subject=name())


def test_common_name_that_looks_like_a_host_name_is_checked():
    """If there is no DNS name. Some take a client's common name for its host name."""
    constraints = raw.name_constraints((dns("example"),))
    refused(constraints, subject=common_name("a.test"), saying="a.test is not permitted")
    refused(constraints, uri("x://a"), subject=common_name("a.test"), saying="a.test is not permitted")
    for text in ("a.example", "A. Person", "host", "a@b.test", "192.0.2.1"):
        verify(constraints, subject=common_name(text))
    verify(constraints, dns("a.example"), subject=common_name("a.test"))
    verify(constraints, subject=common_name("leaf"), between=common_name("a.test"))


def tlv_mail(text: str) -> bytes:
    return raw.tlv(0x16, text.encode())


def test_intermediate_that_issued_itself_is_exempt():
    """RFC 5280 section 6.1.3 (b), for new keys of an authority."""
    constraints = raw.name_constraints((directory(common_name("leaf")),))
    verify(constraints, between=common_name("middle"))
    refused(constraints, between=common_name("other"), saying="is not permitted")


@pytest.mark.parametrize("distance", [raw.tlv(0x80, b"\1"), raw.tlv(0x81, b"\1")])
def test_distances_are_refused(distance: bytes):
    """RFC 5280: the minimum MUST be zero, and the maximum be absent."""
    subtrees = raw.tlv(0xA0, raw.sequence(dns("example"), distance))
    refused(raw.extension("2.5.29.30", raw.sequence(subtrees), critical=True), saying="minimum or maximum")
