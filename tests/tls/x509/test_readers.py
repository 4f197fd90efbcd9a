"""Every reader returns all that is in a file, or says what it cannot read, where and why."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import PeerError, UnreadableError
from handshaked.tls.x509.readers import (
    MAX_LIST,
    read_certificate,
    read_certificates,
    read_der_private_key,
    read_ocsp_response,
    read_pkcs12,
    read_private_key,
    read_revocation_lists,
    read_trust_anchors,
    read_trust_store,
)
from handshaked.tls.x509.verification import ServerChainVerifier
from tests.certificates import crl_pem, key, revocation_list, scoped, server
from tests.patience import PATIENCE
from tests.tls.x509.chains import INTERMEDIATE, ROOT, T, openssl

BOM = b"\xef\xbb\xbf"
LISTS = [revocation_list(INTERMEDIATE), revocation_list(ROOT, [INTERMEDIATE])]
LEAF = server(ROOT)
VERSION_4 = LEAF.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
LINES = ROOT.pem.count(b"\n")


def pem(encoded: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % base64.encodebytes(encoded)


def key_pem(private: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def refusal(reader, *arguments, **options) -> str:
    with pytest.raises(UnreadableError) as caught:
        reader(*arguments, **options)
    assert str(caught.value).startswith("file")
    return str(caught.value)


class TestRevocationLists:
    PEM = crl_pem(LISTS[0]) + crl_pem(LISTS[1])
    LINES = crl_pem(LISTS[0]).count(b"\n")

    @pytest.mark.parametrize(
        "content",
        [
            PEM,
            b"Certificate Revocation List (CRL):\n"
            + crl_pem(LISTS[0])
            + b"# the other one\n"
            + crl_pem(LISTS[1])
            + b"end\n",
            BOM + PEM,
            PEM.replace(b"\n", b"\r\n"),
            PEM.replace(b"\n", b"  \n"),
            crl_pem(LISTS[0]) + ROOT.pem + crl_pem(LISTS[1]),
        ],
        ids=["plain", "text", "bom", "crlf", "trailing-blanks", "certificate-between"],
    )
    def test_all_lists_of_a_pem_file_are_returned(self, content):
        first, second = read_revocation_lists(content, "file")
        assert [first.issuer, second.issuer] == [c.certificate.subject for c in (INTERMEDIATE, ROOT)]
        assert second.revokes(INTERMEDIATE.certificate)

    def test_a_list_in_der_is_returned(self):
        (found,) = read_revocation_lists(LISTS[1], "file")
        assert found.revokes(INTERMEDIATE.certificate)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "no revocation list"),
            (b"junk", "no revocation list"),
            (LISTS[0][:-9], "no revocation list"),
            (LISTS[0] + b"\n", "no revocation list"),
            (ROOT.pem, "no revocation list"),
            (PEM.decode().encode("utf-16"), "is UTF-16 text"),
            (PEM[:-20], f"line {LINES + 1}: this BEGIN line has no END line"),
            (PEM[30:], f"line {LINES - 1}: this END line has no BEGIN line"),
            (PEM.replace(b"-----BEGIN X509 CRL-----", b"----BEGIN X509 CRL-----"), "line 1: a damaged BEGIN"),
            (
                crl_pem(LISTS[0]) + key_pem(key()),
                f"line {LINES + 1}: expected a revocation list (X509 CRL), found: PRIVATE KEY",
            ),
            (PEM.replace(b"X509 CRL", b"CRL"), "line 1: expected a revocation list (X509 CRL), found: CRL"),
        ],
    )
    def test_what_is_not_read_is_an_error(self, content, reason):
        assert reason in refusal(read_revocation_lists, content, "file")

    def test_one_damaged_list_refuses_the_file_and_is_named(self):
        second = crl_pem(LISTS[1])
        damaged = crl_pem(LISTS[0]) + b"# the other one\n" + second[:60] + b"?" + second[61:]
        assert refusal(read_revocation_lists, damaged, "file").startswith(
            f"file: line {self.LINES + 2}: the X509 CRL block is not base64"
        )
        body = b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"
        reason = refusal(read_revocation_lists, crl_pem(LISTS[0]) + body, "file")
        assert reason.startswith(
            f"file: line {self.LINES + 1}: revocation list 2: the revocation list cannot be used: "
        )

    def test_partial_lists_are_not_supported(self):
        delta = x509.DeltaCRLIndicator(1)
        for extensions in (scoped(indirect_crl=True), [(delta, True)], [(delta, False)]):
            encoded = revocation_list(ROOT, extensions=extensions)
            assert "not supported" in refusal(read_revocation_lists, encoded, "file")

    def test_a_file_beyond_the_limit_is_refused(self):
        assert "the limit is" in refusal(read_revocation_lists, bytes(MAX_LIST + 1), "file")


class TestCertificates:
    @pytest.mark.parametrize(
        "content",
        [
            LEAF.pem + b"text\n" + ROOT.pem,
            key_pem(key()) + LEAF.pem + ROOT.pem,
            BOM + (LEAF.pem + ROOT.pem).replace(b"\n", b"\r\n"),
            (LEAF.pem + ROOT.pem).replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"),
        ],
    )
    def test_all_certificates_of_a_file_are_returned_in_order(self, content):
        assert read_certificates(content, "file") == [LEAF.certificate, ROOT.certificate]

    def test_openssls_trust_settings_are_refused(self, tmp_path: Path):
        (tmp_path / "c.pem").write_bytes(ROOT.pem)
        openssl(
            tmp_path,
            "x509 -in c.pem -trustout -setalias it -out alias.pem",
            "x509 -in c.pem -addtrust emailProtection -out trust.pem",
            "x509 -in c.pem -addreject serverAuth -out reject.pem",
        )
        assert read_certificates((tmp_path / "alias.pem").read_bytes(), "file") == [ROOT.certificate]
        for name in ("trust", "reject"):
            reason = refusal(read_trust_store, (tmp_path / f"{name}.pem").read_bytes(), "file")
            assert reason.startswith("file: line 1: certificate 1: OpenSSL's trust settings are not supported")

    def test_the_damaged_certificate_is_named_with_its_line(self):
        junk = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        reason = refusal(read_certificates, b"text\n" + LEAF.pem + junk, "file")
        line = 2 + LEAF.pem.count(b"\n")
        assert reason.startswith(f"file: line {line}: certificate 2: ")

    def test_a_name_that_is_not_utf8_is_an_error(self):
        """`cryptography` parses names lazily."""
        encoded = LEAF.der.replace(b"\x0c\x04leaf", b"\x0c\x04l\xe9af")
        assert encoded != LEAF.der
        assert refusal(read_certificates, pem(encoded), "file").startswith("file: line 1: certificate 1: ")


class TestTrustStores:
    @pytest.mark.parametrize("anchors", [[], [b"junk"], [b"", b"junk"]])
    def test_der_that_is_not_certificates_is_refused(self, anchors):
        refusal(read_trust_anchors, anchors, "file")

    @pytest.mark.parametrize(
        "bundle", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"]
    )
    def test_pem_that_is_not_certificates_is_refused(self, bundle):
        refusal(read_trust_store, bundle, "file")

    def test_a_certificate_that_the_parser_refuses_costs_only_itself(self):
        for store, place in (
            (read_trust_store(ROOT.pem + b"text\n" + pem(VERSION_4) + INTERMEDIATE.pem, "file"), f"line {LINES + 2}: "),
            (read_trust_anchors([ROOT.der, VERSION_4, INTERMEDIATE.der], "file"), ""),
        ):
            assert store.has(ROOT.certificate)
            assert store.has(INTERMEDIATE.certificate)
            (left_out,) = store.left_out
            assert left_out.startswith(f"file: {place}certificate 2: ")
            assert left_out.endswith(" (CN=leaf)")

    @pytest.mark.parametrize(
        ("block", "reason"),
        [
            (pem(LEAF.der).replace(b"\nMII", b"\n?MII"), "the CERTIFICATE block is not base64"),
            (pem(b"\x30\x00"), "certificate 2"),
            (pem(LEAF.der.replace(b"\x0c\x04leaf", b"\x0c\x04l\xe9af")), "(CN=l\\xe9af)"),
        ],
    )
    def test_a_damaged_certificate_costs_only_itself(self, block, reason):
        store = read_trust_store(ROOT.pem + block, "file")
        assert len(store) == 1
        assert reason in store.left_out[0]

    def test_a_damaged_boundary_refuses_the_store(self):
        refusal(read_trust_store, ROOT.pem + LEAF.pem.replace(b"-----END", b"----END"), "file")

    def test_left_out_anchors_are_named_to_those_whose_peer_is_not_trusted(self):
        store = read_trust_anchors([INTERMEDIATE.der, VERSION_4], "anchors of the request")
        with pytest.raises(PeerError, match=r"anchors of the request: certificate 2: .*CN=leaf"):
            ServerChainVerifier(store).verify((server(ROOT).der,), "a.example", T)

    def test_duplicates_count_once(self):
        assert len(read_trust_store((ROOT.pem + b"\n# a comment\n") * 3 + INTERMEDIATE.pem, "file")) == 2


class TestPrivateKeys:
    @pytest.mark.parametrize("before", [BOM, b"Bag Attributes\n  friendlyName: it\n", ROOT.pem])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    @pytest.mark.parametrize("passphrase", [b"", b"x"])
    def test_text_and_other_blocks_are_skipped(self, before, end, passphrase):
        content = before + key_pem(key(), passphrase).replace(b"\n", end)
        assert read_private_key(content, passphrase or None, "file").public_key() == key().public_key()

    def test_a_traditional_key_with_headers_is_read(self, tmp_path: Path):
        command = ["openssl", "ec", "-aes128", "-passout", "pass:xyzzy", "-out", tmp_path / "key.pem"]
        subprocess.run(command, input=key_pem(key()), check=True, capture_output=True, timeout=PATIENCE)
        content = (tmp_path / "key.pem").read_bytes()
        assert b"DEK-Info" in content
        for one in (content, b"text\n" + content.replace(b"\n", b"\r\n")):
            assert read_private_key(one, b"xyzzy", "file").public_key() == key().public_key()

    def test_two_keys_in_a_file_are_refused(self):
        reason = refusal(read_private_key, key_pem(key()) + key_pem(key(number=1)), None, "file")
        assert "2 private keys (lines 1, 6)" in reason


def pkcs12_file() -> bytes:
    return pkcs12.serialize_key_and_certificates(b"it", LEAF.key, LEAF.certificate, None, NoEncryption())


READERS = {
    "certificate": (LEAF.der, lambda content: read_certificate(content, "file")),
    "certificates": (LEAF.pem + ROOT.pem, lambda content: read_certificates(content, "file")),
    "trust": (ROOT.pem, lambda content: read_trust_store(content, "file")),
    "list": (LISTS[1], lambda content: read_revocation_lists(content, "file")),
    "lists": (TestRevocationLists.PEM, lambda content: read_revocation_lists(content, "file")),
    "key": (key_pem(key()), lambda content: read_private_key(content, None, "file")),
    "passphrase": (b"\xe9\xff\0", lambda content: read_private_key(key_pem(key(), b"x"), content, "file")),
    "der key": (
        key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        lambda content: read_der_private_key(content, "file"),
    ),
    "pkcs12": (pkcs12_file(), lambda content: read_pkcs12(content, None, "file")),
    "pkcs12 passphrase": (b"\xe9\xff\0", lambda content: read_pkcs12(pkcs12_file(), content, "file")),
    "ocsp": (LEAF.der, lambda content: read_ocsp_response(content, "file")),
}


@pytest.mark.parametrize("which", READERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nothing_but_unreadable_error_is_raised(which, data):
    content, read = READERS[which]
    mutated = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(UnreadableError):
        read(bytes(mutated))
