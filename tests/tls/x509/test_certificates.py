"""Checks on single certificates: algorithms, limits, and encodings."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509.certificates import MAX_CERTIFICATE, MAX_CERTIFICATES
from handshaked.tls.x509.readers import read_trust_store
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ServerChainVerifier
from tests.certificates import (
    authority,
    issue,
    root,
    server,
)
from tests.tls.x509.chains import ROOT, T, openssl, refused, trust, verify


class TestAlgorithms:
    @pytest.mark.parametrize("kind", ["rsa1024", "dsa", "p192", "k256"])
    def test_weak_and_unsupported_keys_are_refused(self, kind):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, kind=kind), saying="CN=leaf has a")
        leaf = server(None, kind=kind)
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, anchors=[leaf])
        middle = issue("intermediate", ROOT, authority(), kind=kind, number=101)
        refused(
            Alert.BAD_CERTIFICATE if kind == "dsa" else Alert.UNSUPPORTED_CERTIFICATE,
            server(middle),
            middle,
        )
        top = root(kind=kind)
        with pytest.raises(PeerError):
            verify(server(top), anchors=[top])

    def test_huge_exponent_is_refused(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, kind="huge exponent"), saying="exponent")

    def test_pss_keys_are_accepted_but_not_with_sha1(self, tmp_path):
        """Keys with the OID id-RSASSA-PSS, and signatures with the default parameters of OpenSSL and with SHA-1."""
        (tmp_path / "x").write_text("subjectAltName=DNS:a.example\n")
        pss = "-sigopt rsa_padding_mode:pss -days 90000"
        openssl(
            tmp_path,
            f"req -x509 -newkey rsa-pss -nodes -keyout r.key -out r.pem {pss} -subj /CN=root",
            "req -newkey rsa-pss -nodes -keyout l.key -out l.csr -subj /CN=leaf -sigopt rsa_padding_mode:pss",
            f"x509 -req -in l.csr -CA r.pem -CAkey r.key -CAcreateserial -extfile x -out good.pem {pss}",
            f"x509 -req -in l.csr -CA r.pem -CAkey r.key -extfile x -sha1 -out bad.pem {pss}",
        )
        made = {p.stem: x509.load_pem_x509_certificate(p.read_bytes()) for p in tmp_path.glob("*.pem")}
        verifier = ServerChainVerifier(TrustStore([made["r"]]))
        now = made["bad"].not_valid_before_utc.timestamp() + 1
        verifier.verify((made["good"].public_bytes(Encoding.DER),), "a.example", now)
        with pytest.raises(PeerError) as caught:
            verifier.verify((made["bad"].public_bytes(Encoding.DER),), "a.example", now)
        assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_rare_digest_is_refused(self):
        refused(Alert.BAD_CERTIFICATE, server(ROOT, digest=hashes.SHA224()), saying="unsupported algorithm")

    def test_sha1_is_refused_below_an_anchor(self, tmp_path):
        (tmp_path / "x").write_text("subjectAltName=DNS:a.example\nbasicConstraints=CA:TRUE\n")
        commands = """
            req -x509 -newkey rsa:2048 -nodes -keyout r.key -out r.pem -sha1 -days 90000 -subj /CN=root
            req -newkey rsa:2048 -nodes -keyout l.key -out l.csr -subj /CN=leaf
            x509 -req -in l.csr -CA r.pem -CAkey r.key -CAcreateserial -sha1 -days 90000 -extfile x -out 1.pem
            x509 -req -in l.csr -CA r.pem -CAkey r.key -sha256 -days 90000 -extfile x -out 256.pem
            x509 -req -in l.csr -CA 1.pem -CAkey l.key -CAcreateserial -days 90000 -extfile x -out below.pem"""
        openssl(tmp_path, *commands.strip().splitlines())
        verifier = ServerChainVerifier(read_trust_store((tmp_path / "r.pem").read_bytes(), "trust"))
        made = {p.stem: x509.load_pem_x509_certificate(p.read_bytes()) for p in tmp_path.glob("*.pem")}
        der = {stem: c.public_bytes(Encoding.DER) for stem, c in made.items()}
        now = made["below"].not_valid_before_utc.timestamp() + 1
        verifier.verify((der["256"],), "a.example", now)  # the signature of an anchor is not checked
        for chain in [(der["1"],), (der["below"], der["1"])]:
            with pytest.raises(PeerError) as caught:
                verifier.verify(chain, "a.example", now)
            assert caught.value.alert is Alert.BAD_CERTIFICATE  # RFC 8446 section 4.4.2.4
            assert "1.2.840.113549.1.1.5" in caught.value.reason


class TestBounds:
    def test_number_of_certificates_is_limited(self):
        many = [root(f"junk {n}", number=9) for n in range(MAX_CERTIFICATES)]
        verify(server(ROOT), *many[1:])
        refused(Alert.BAD_CERTIFICATE, server(ROOT), *many, saying="limit")

    def test_size_of_a_certificate_is_limited(self):
        large = server(ROOT, san=" ".join(["a.example", *(f"{n:060}.example" for n in range(MAX_CERTIFICATE // 70))]))
        assert len(large.der) > MAX_CERTIFICATE
        refused(Alert.BAD_CERTIFICATE, large, saying="limit")
        refused(Alert.BAD_CERTIFICATE, server(ROOT), large, saying="limit")

    def test_empty_chain_is_decode_error(self):
        with pytest.raises(PeerError) as caught:
            ServerChainVerifier(trust()).verify((), "a.example", T)
        assert caught.value.alert is Alert.DECODE_ERROR

    @pytest.mark.parametrize("junk", [b"", b"\x30\x03\x02\x01\x01", b"junk" * 1000])
    def test_malformed_certificate_is_refused(self, junk):
        for chain in [(junk,), (server(ROOT).der, junk)]:
            with pytest.raises(PeerError) as caught:
                ServerChainVerifier(trust()).verify(chain, "a.example", T)
            assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_other_encoding_of_a_signature_is_refused(self):
        """No signature covers the count of unused bits before a signature."""
        leaf = server(ROOT)
        at = len(leaf.der) - len(leaf.certificate.signature) - 1
        for count in range(1, 8):
            encoded = leaf.der[:at] + bytes([count]) + leaf.der[at + 1 :]
            with pytest.raises(PeerError) as caught:
                ServerChainVerifier(trust()).verify((encoded,), "a.example", T)
            assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_search_for_paths_is_limited(self):
        """Certificates that all issue each other: the search gives up before it has tried all orders."""
        ring = [issue("ring", None, authority(), number=9, serial=n + 1) for n in range(MAX_CERTIFICATES - 1)]
        refused(Alert.UNKNOWN_CA, server(ring[0]), *ring)
        edwards = [
            issue("ring", None, authority(), kind="ed25519", number=9, serial=n + 1)
            for n in range(MAX_CERTIFICATES - 1)
        ]
        refused(Alert.UNKNOWN_CA, server(edwards[0]), *edwards)

    def test_signatures_by_unknown_authorities_are_not_verified(self):
        """They have the names of trusted ones, and verifying each signature would take as long as signing."""
        costly = [
            issue("root", None, authority(), kind="huge exponent", serial=n + 1) for n in range(MAX_CERTIFICATES - 1)
        ]
        leaf = server(costly[0])
        begin = time.process_time()
        refused(Alert.UNKNOWN_CA, leaf, *costly)
        assert time.process_time() - begin < 0.05  # 0.3 s and more otherwise

    def test_text_of_the_peer_is_escaped_and_truncated(self):
        reason = refused(
            Alert.UNKNOWN_CA, server(root("evil\n\x1b[31m" + "x" * 50, number=9), common_name="\u202e" * 20)
        )
        assert reason.isascii()
        assert reason.isprintable()
