"""Certificates of private authorities, which Web rules refuse: roots without extensions, rare keys, version 1."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509.readers import read_certificate, read_trust_store
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    authority,
    client,
    issue,
    key_usage,
    names,
    root,
    server,
)
from tests.tls.x509.chains import INTERMEDIATE, ROOT, openssl, refused, trust, verify, verify_client


class TestPrivateAuthorities:
    @pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519", "ed448"])
    @pytest.mark.parametrize("extensions", [(), (authority(),), (SERVER,)])
    def test_self_signed_leaf_is_accepted_as_its_own_anchor(self, kind, extensions):
        leaf = issue("leaf", None, names("a.example"), *extensions, kind=kind)
        verify(leaf, anchors=[leaf])
        refused(Alert.BAD_CERTIFICATE, leaf, anchors=[leaf], server_name="b.example")
        refused(Alert.UNKNOWN_CA, leaf)

    def test_self_signed_certificate_of_openssl_is_accepted(self, tmp_path):
        """The usual call of `openssl req -x509`, with a subjectAltName."""
        openssl(
            tmp_path,
            "req -x509 -newkey rsa:2048 -nodes -days 90000 -subj /CN=a.example -keyout k.pem -out c.pem"
            " -addext subjectAltName=DNS:a.example,IP:127.0.0.1",
        )
        pem = (tmp_path / "c.pem").read_bytes()
        verifier = ServerChainVerifier(read_trust_store(pem, "trust"))
        certificate = x509.load_pem_x509_certificate(pem)
        now = certificate.not_valid_before_utc.timestamp()
        for name in ("a.example", "127.0.0.1"):
            verifier.verify((certificate.public_bytes(Encoding.DER),), name, now)

    def test_serial_number_zero_causes_no_warning(self, tmp_path):
        """`cryptography` warns of serial number 0, which some authorities used. Input must not fill the log."""
        openssl(
            tmp_path,
            "req -x509 -newkey rsa:2048 -nodes -days 90000 -subj /CN=a -keyout k.pem -out c.pem -set_serial 0"
            " -addext subjectAltName=DNS:a.example",
            "x509 -in c.pem -outform DER -out c.der",
        )
        der = (tmp_path / "c.der").read_bytes()
        assert read_certificate(der, "a file").subject.rfc4514_string() == "CN=a"
        refused(
            Alert.UNKNOWN_CA, check=lambda: ServerChainVerifier(trust()).verify((der,), "a.example", time.time() + 9)
        )

    @pytest.mark.parametrize("kind", ["ed25519", "ed448"])
    def test_edwards_authorities_are_accepted(self, kind):
        top = root(kind=kind)
        middle = issue("intermediate", top, authority(0), kind=kind, number=101)
        verify(server(middle), middle, anchors=[top])
        verify_client(client(middle), middle, anchors=[top])
        verify(server(middle), middle, anchors=[middle])
        mixed = issue("intermediate", ROOT, authority(), kind=kind, number=101)
        verify(server(mixed), mixed)

    def test_edwards_authorities_are_checked_like_others(self):
        top = root(kind="ed25519")
        middle = issue("intermediate", top, authority(), kind="ed25519", number=101)

        def below(*extensions, **options):
            return issue("intermediate", top, *extensions, kind="ed25519", number=101, **options)

        leaf = server(middle)
        forged = server(issue("intermediate", None, authority(), kind="ed25519", number=5))
        refused(Alert.UNKNOWN_CA, forged, middle, anchors=[top])
        refused(Alert.BAD_CERTIFICATE, leaf, middle, anchors=[top], server_name="b.example")
        refused(Alert.CERTIFICATE_EXPIRED, leaf, below(authority(), end=NOW - DAY / 2), anchors=[top])
        refused(Alert.BAD_CERTIFICATE, leaf, below(), anchors=[top], saying="is not a certificate authority")
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, below(authority(), key_usage("crl_sign")), anchors=[top])
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, below(authority(), CLIENT), anchors=[top])
        limited = root(kind="ed25519", number=3)
        short = issue("root", None, authority(0), kind="ed25519", number=3)
        under = issue("intermediate", limited, authority(), kind="ed25519", number=101)
        refused(Alert.BAD_CERTIFICATE, leaf, under, anchors=[short], saying="path length")
        named = below(authority(), x509.NameConstraints([x509.DNSName("example")], None))
        verify(leaf, named, anchors=[top])
        refused(Alert.BAD_CERTIFICATE, server(middle, san="a.test"), named, anchors=[top], server_name="a.test")
        odd = below(authority(), x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"))
        refused(Alert.BAD_CERTIFICATE, leaf, odd, anchors=[top], saying="not supported")

    def test_root_with_key_usage_only_is_accepted(self):
        plain = issue("root", None, key_usage("key_cert_sign", "crl_sign"), number=100)
        verify(server(INTERMEDIATE), INTERMEDIATE, anchors=[plain])
        useless = issue("root", None, number=100)
        refused(Alert.BAD_CERTIFICATE, server(ROOT), anchors=[useless])

    def test_version_1_is_accepted_as_root_and_as_client(self, tmp_path):
        """A root of version 1, and a client's certificate of version 1, as `openssl x509 -req` makes by default."""
        (tmp_path / "x").write_text("subjectAltName=DNS:a.example\n")
        commands = """
            req -newkey rsa:2048 -nodes -keyout r.key -out r.csr -subj /CN=old
            x509 -req -in r.csr -signkey r.key -days 90000 -out r.pem
            req -newkey rsa:2048 -nodes -keyout l.key -out l.csr -subj /CN=leaf
            x509 -req -in l.csr -CA r.pem -CAkey r.key -CAcreateserial -days 90000 -out v1.pem
            x509 -req -in l.csr -CA r.pem -CAkey r.key -extfile x -days 90000 -out v3.pem
            x509 -req -in l.csr -CA v1.pem -CAkey l.key -CAcreateserial -extfile x -days 90000 -out below.pem"""
        openssl(tmp_path, *commands.strip().splitlines())
        made = {p.stem: x509.load_pem_x509_certificate(p.read_bytes()) for p in tmp_path.glob("*.pem")}
        old = TrustStore([made["r"]])
        assert made["r"].version is made["v1"].version is x509.Version.v1
        now = made["below"].not_valid_before_utc.timestamp() + 1
        der = {stem: c.public_bytes(Encoding.DER) for stem, c in made.items()}
        ServerChainVerifier(old).verify((der["v3"],), "a.example", now)
        ClientChainVerifier(old).verify((der["v1"],), now)
        for verifier, arguments in [
            (ServerChainVerifier(old), ((der["v1"],), "leaf", now)),
            (ServerChainVerifier(old), ((der["below"], der["v1"]), "a.example", now)),
            (ClientChainVerifier(trust()), ((der["v1"],), now)),
        ]:
            with pytest.raises(PeerError):
                verifier.verify(*arguments)

    def test_intermediate_that_issued_itself_does_not_count_as_a_step(self):
        """RFC 5280 section 6.1.4 (l), for new keys of an authority."""
        top = issue("root", None, authority(1), number=100)
        middle = issue("middle", top, authority(), number=101)
        renewed, lower = (issue(common_name, middle, authority(), number=102) for common_name in ("middle", "lower"))
        verify(server(renewed), renewed, middle, anchors=[top])
        refused(Alert.BAD_CERTIFICATE, server(lower), lower, middle, anchors=[top], saying="path length")
