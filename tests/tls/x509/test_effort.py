"""Limits on the work for a peer's certificates: nothing interrupts the verifier, so others wait for it."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, PeerError, UnreadableError
from handshaked.tls import messages
from handshaked.tls.x509 import certificates as certificates_module
from handshaked.tls.x509 import trust as trust_module
from handshaked.tls.x509.certificates import MAX_CERTIFICATES, MAX_SIGNATURE_CHECKS
from handshaked.tls.x509.parsing import MAX_NAME
from handshaked.tls.x509.readers import read_trust_anchors
from tests.certificates import CLIENT, DAY, NOW, authority, client, issue, key, names, root, server
from tests.tls.x509.chains import INTERMEDIATE, ROOT, refused, trust, verify, verify_client


@pytest.mark.parametrize("where", ["intermediate", "root"])
def test_names_times_constraints_are_limited(where):
    """2,800 names under 2,400 constraints took 0.1 s."""

    def chain(count: int, constraints: int):
        subtrees = [x509.DNSName("example"), *(x509.DNSName(f"{n}.test") for n in range(constraints - 1))]
        limits = (x509.NameConstraints(subtrees, None),)
        top = issue("root", None, authority(), *(limits if where == "root" else ()), number=100)
        below = () if where == "root" else limits
        middle = issue("intermediate", top, authority(), *below, number=101)
        san = ["a.example", *(f"{n}.example" for n in range(count - 1))]
        return top, server(middle, san=" ".join(san)), client(middle, names(*san), CLIENT), middle

    top, leaf, visitor, middle = chain(100, 100)
    verify(leaf, middle, anchors=[top])
    verify_client(visitor, middle, anchors=[top])
    top, leaf, visitor, middle = chain(128, 127)
    refused(Alert.BAD_CERTIFICATE, leaf, middle, anchors=[top], saying="130 names and 127 name constraints")
    refused(Alert.BAD_CERTIFICATE, visitor, middle, check=verify_client, anchors=[top], saying="130 names and 127")


def test_possible_issuers_are_limited():
    """Each of them is tried. A caller can trust any number of the same name."""
    many = [root(number=200 + n) for n in range(MAX_SIGNATURE_CHECKS)]
    verify(server(INTERMEDIATE), INTERMEDIATE, anchors=[*many[:-2], ROOT])
    refused(Alert.BAD_CERTIFICATE, server(ROOT), anchors=[*many, ROOT], saying="too many possible issuers")


@pytest.fixture
def checked(monkeypatch):
    """The certificates whose signature is looked at."""
    found = []
    verifies = certificates_module.is_signed_by

    def counted(certificate, authority):
        found.append(certificate)
        return verifies(certificate, authority)

    monkeypatch.setattr(trust_module, "is_signed_by", counted)
    monkeypatch.setattr(certificates_module, "is_signed_by", counted)
    return found


@pytest.mark.parametrize("short", [True, False])
def test_paths_through_certificates_that_issue_each_other_are_limited(checked, short):
    one, other = issue("one", ROOT, authority(), number=7), issue("other", ROOT, authority(), number=8)
    ring = [issue("one", other, authority(), number=7, serial=n) for n in range(1, 5)]
    ring += [issue("other", one, authority(), number=8, serial=n) for n in range(5, 8)]
    if short:  # there is a short path besides
        verify(server(one), *ring, one)
    else:
        last = issue("other", ROOT, authority(), number=8, end=NOW - DAY / 2)
        with pytest.raises(PeerError) as caught:
            verify(server(one), *ring, last)
        assert caught.value.alert in (Alert.BAD_CERTIFICATE, Alert.CERTIFICATE_EXPIRED)
    assert 0 < len(checked) <= 2 * MAX_SIGNATURE_CHECKS


def test_copies_of_an_anchor_are_no_issuers():
    """A server may send a root that was renewed since, with the same name and key."""
    renewed = issue("root", None, authority(), number=100, serial=1)
    old = [issue("root", None, authority(), number=100, serial=n) for n in range(2, 9)]
    verify(server(INTERMEDIATE), INTERMEDIATE, *old, anchors=[renewed])
    verify(server(INTERMEDIATE), INTERMEDIATE, renewed, anchors=[renewed])


def test_search_for_anchored_certificates_is_limited(checked):
    store = trust(*(root(number=200 + n) for n in range(40)))
    sent = [issue(f"sent {n}", root(number=9), authority(), number=10 + n) for n in range(9)]
    assert store.anchored([each.certificate for each in sent]) == []
    assert len(checked) == MAX_SIGNATURE_CHECKS


@pytest.mark.parametrize("side", ["issuer", "subject"])
def test_names_of_a_certificate_are_limited(side):
    """The library takes 7 microseconds for each part of a name, and describing it takes twice as long."""

    def made(parts: int) -> bytes:
        part = x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 50)
        short, long = x509.Name([part]), x509.Name([part] * parts)
        issuer, subject = (long, short) if side == "issuer" else (short, long)
        builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).serial_number(1)
        builder = builder.not_valid_before(NOW).not_valid_after(NOW + DAY).public_key(key().public_key())
        return builder.sign(key(), hashes.SHA256()).public_bytes(Encoding.DER)

    read_trust_anchors([made(MAX_NAME // 70)], "anchors")
    with pytest.raises(UnreadableError, match=r"a name of 4\d+ bytes, the limit is 4096"):
        read_trust_anchors([made(MAX_NAME // 60)], "anchors")


def test_certificates_are_counted_while_they_are_parsed():
    """A message of 64 KiB can have 10,000."""
    most = messages.push_certificate((b"x",) * MAX_CERTIFICATES)[4:]
    assert len(messages.pull_certificate(most).chain) == MAX_CERTIFICATES
    entries = most[4:] + b"\0\0\1x\0\0" + b"not parsed any more"
    with pytest.raises(PeerError) as caught:
        messages.pull_certificate(b"\0" + len(entries).to_bytes(3) + entries)
    assert caught.value.alert is Alert.BAD_CERTIFICATE
