"""Chains with every defect that a certificate can have, and what is said of them."""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, CallerError, PeerError
from handshaked.tls.certificates import MAX_CERTIFICATE, MAX_CERTIFICATES
from handshaked.tls.revocation import RevocationList, RevocationLists
from handshaked.tls.trust import TrustStore
from handshaked.tls.verification import ClientChainVerifier, ServerChainVerifier
from tests.authority import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    Issued,
    authority,
    client,
    issue,
    key_usage,
    names,
    revocation_list,
    root,
    server,
    usages,
)

T = NOW.timestamp()
NO_LISTS = RevocationLists()
ROOT = root()
INTERMEDIATE = issue("intermediate", ROOT, authority(), number=101)


def trust(*anchors: Issued) -> TrustStore:
    return TrustStore.from_der([anchor.der for anchor in anchors or (ROOT,)])


def verify(*chain: Issued, anchors=(), server_name="a.example", now=T, revocations=NO_LISTS) -> None:
    ServerChainVerifier(trust(*anchors), revocations).verify(tuple(c.der for c in chain), server_name, now)


def verify_client(*chain: Issued, anchors=(), now=T, revocations=NO_LISTS) -> None:
    ClientChainVerifier(trust(*anchors), revocations).verify(tuple(c.der for c in chain), now)


def refused(alert: Alert, *chain: Issued, check=verify, saying: str = "", **options) -> str:
    with pytest.raises(PeerError) as caught:
        check(*chain, **options)
    assert (caught.value.alert, saying in caught.value.reason) == (alert, True), caught.value.reason
    assert len(caught.value.reason) < 600
    return caught.value.reason


def openssl(directory: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


class TestGoodChains:
    @pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "mldsa44", "mldsa65", "mldsa87"])
    @pytest.mark.parametrize("leaf_kind", ["p256", "ed25519", "ed448", "rsa2048"])
    def test_key_types(self, kind, leaf_kind):
        verify(server(root(kind=kind), kind=leaf_kind), anchors=[root(kind=kind)])

    def test_intermediate(self):
        verify(server(INTERMEDIATE, number=101), INTERMEDIATE)
        verify_client(client(INTERMEDIATE, number=101), INTERMEDIATE)

    def test_root_sent_along_unordered_with_duplicates_and_junk(self):
        leaf = server(INTERMEDIATE, number=101)
        verify(leaf, ROOT, root("junk", number=7), INTERMEDIATE, INTERMEDIATE, leaf)

    def test_cross_signed(self):
        """Two ways lead up, and only the second one to something trusted."""
        other = root("other root", number=8)
        crossed = issue("intermediate", other, authority(), number=101)
        verify(server(INTERMEDIATE, number=101), INTERMEDIATE, crossed, anchors=[other])
        verify(server(INTERMEDIATE, number=101), crossed, INTERMEDIATE)

    def test_an_expired_cross_certificate_does_no_harm(self):
        expired = issue("intermediate", root("gone", number=9), authority(), number=101, end=NOW - DAY / 2)
        verify(server(INTERMEDIATE, number=101), expired, INTERMEDIATE)

    def test_an_intermediate_may_be_the_anchor(self):
        verify(server(INTERMEDIATE, number=101), anchors=[INTERMEDIATE])

    def test_usages_of_authorities(self):
        for extensions in [
            (key_usage("key_cert_sign"),),
            (usages(Usage.SERVER_AUTH, Usage.CLIENT_AUTH),),
            (usages(Usage.ANY_EXTENDED_KEY_USAGE),),
        ]:
            verify(server(INTERMEDIATE), issue("intermediate", ROOT, authority(), *extensions, number=101))

    def test_a_leaf_without_extended_key_usage_is_for_any(self):
        leaf = issue("leaf", ROOT, names("a.example"))
        verify(leaf)
        verify_client(leaf)

    def test_a_leaf_that_is_an_authority_too(self):
        verify(server(ROOT, SERVER, authority(0), key_usage("digital_signature", "key_cert_sign")))

    def test_a_client_needs_no_name(self):
        verify_client(client(ROOT))

    def test_critical_extensions_that_are_understood(self):
        leaf = server(INTERMEDIATE, SERVER, key_usage("digital_signature"), critical=True)
        verify(
            leaf,
            issue("intermediate", ROOT, authority(), key_usage("key_cert_sign"), SERVER, critical=True, number=101),
        )

    def test_critical_policies_are_no_hindrance(self):
        policy = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)])
        verify(server(INTERMEDIATE), issue("intermediate", ROOT, authority(), policy, number=101))


class TestPrivateAuthorities:
    @pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519", "ed448"])
    @pytest.mark.parametrize("extensions", [(), (authority(),), (SERVER,)])
    def test_self_signed_leaf_as_its_own_anchor(self, kind, extensions):
        leaf = issue("leaf", None, names("a.example"), *extensions, kind=kind)
        verify(leaf, anchors=[leaf])
        refused(Alert.BAD_CERTIFICATE, leaf, anchors=[leaf], server_name="b.example")
        refused(Alert.UNKNOWN_CA, leaf)

    def test_what_openssl_makes(self, tmp_path):
        """`openssl req -x509` as everybody calls it; with its name it will do."""
        openssl(
            tmp_path,
            "req -x509 -newkey rsa:2048 -nodes -days 90000 -subj /CN=a.example -keyout k.pem -out c.pem"
            " -addext subjectAltName=DNS:a.example,IP:127.0.0.1",
        )
        pem = (tmp_path / "c.pem").read_bytes()
        verifier = ServerChainVerifier(TrustStore.from_pem(pem))
        certificate = x509.load_pem_x509_certificate(pem)
        now = certificate.not_valid_before_utc.timestamp()
        for name in ("a.example", "127.0.0.1"):
            verifier.verify((certificate.public_bytes(Encoding.DER),), name, now)

    @pytest.mark.parametrize("kind", ["ed25519", "ed448"])
    def test_edwards_authorities(self, kind):
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
        refused(Alert.BAD_CERTIFICATE, leaf, below(), anchors=[top], saying="no certificate authority")
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, below(authority(), key_usage("crl_sign")), anchors=[top])
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, below(authority(), CLIENT), anchors=[top])
        limited = root(kind="ed25519", number=3)
        short = issue("root", None, authority(0), kind="ed25519", number=3)
        under = issue("intermediate", limited, authority(), kind="ed25519", number=101)
        refused(Alert.BAD_CERTIFICATE, leaf, under, anchors=[short], saying="path length")
        named = below(authority(), x509.NameConstraints([x509.DNSName("example")], None))
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, named, anchors=[top], saying="not supported")
        odd = below(authority(), x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"))
        refused(Alert.UNSUPPORTED_CERTIFICATE, leaf, odd, anchors=[top], saying="not supported")

    def test_root_with_key_usage_alone(self):
        plain = issue("root", None, key_usage("key_cert_sign", "crl_sign"), number=100)
        verify(server(INTERMEDIATE), INTERMEDIATE, anchors=[plain])
        useless = issue("root", None, number=100)
        refused(Alert.BAD_CERTIFICATE, server(ROOT), anchors=[useless])

    def test_version_1(self, tmp_path):
        """A root of version 1, and what `openssl x509 -req` makes of a client without being told more."""
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


class TestDates:
    def test_leaf(self):
        reason = refused(
            Alert.CERTIFICATE_EXPIRED, server(ROOT, end=NOW - DAY / 2), saying="expired at 2026-11-24 00:00"
        )
        assert "CN=leaf" in reason
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT, begin=NOW + DAY), saying="not valid before")
        verify(server(ROOT, end=NOW), now=T)
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT, end=NOW), now=T + 1)

    def test_intermediate_and_root(self):
        expired = issue("intermediate", ROOT, authority(), number=101, end=NOW - DAY / 2)
        refused(Alert.CERTIFICATE_EXPIRED, server(expired), expired, saying="CN=intermediate")
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT), anchors=[root(end=NOW - DAY / 2)], saying="CN=root")

    def test_an_expired_leaf_is_no_anchor(self):
        leaf = server(None, end=NOW - DAY / 2)
        refused(Alert.CERTIFICATE_EXPIRED, leaf, anchors=[leaf])


class TestIssuers:
    def test_unknown(self):
        refused(Alert.UNKNOWN_CA, server(root("stranger", number=9)), saying="CN=stranger")
        refused(Alert.UNKNOWN_CA, server(INTERMEDIATE))
        refused(Alert.UNKNOWN_CA, client(root("stranger", number=9)), check=verify_client)

    def test_one_of_the_same_name(self):
        refused(Alert.UNKNOWN_CA, server(root(number=9)))
        refused(Alert.UNKNOWN_CA, server(root(number=9)), root(number=9))

    def test_not_an_authority(self):
        for extensions in [(), (x509.BasicConstraints(ca=False, path_length=None),)]:
            middle = issue("intermediate", ROOT, *extensions, number=101)
            refused(Alert.BAD_CERTIFICATE, server(middle), middle, saying="no certificate authority")

    def test_path_length(self):
        short = issue("root", None, authority(0), number=100)
        verify(server(short), anchors=[short])
        refused(Alert.BAD_CERTIFICATE, server(INTERMEDIATE), INTERMEDIATE, anchors=[short], saying="path length")

    def test_usages_of_authorities(self):
        for extension in [key_usage("digital_signature", "crl_sign"), CLIENT]:
            middle = issue("intermediate", ROOT, authority(), extension, number=101)
            refused(Alert.UNSUPPORTED_CERTIFICATE, server(middle), middle, saying="CN=intermediate")

    def test_a_critical_extension_that_nobody_knows(self):
        odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")
        refused(Alert.BAD_CERTIFICATE, server(ROOT, SERVER, odd), saying="1.2.3")
        middle = issue("intermediate", ROOT, authority(), odd, number=101)
        refused(Alert.BAD_CERTIFICATE, server(middle), middle, saying="1.2.3")


class TestUsages:
    @pytest.mark.parametrize("wrong", [CLIENT, usages(Usage.CODE_SIGNING), usages(Usage.ANY_EXTENDED_KEY_USAGE)])
    def test_not_for_servers(self, wrong):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, wrong), saying="not for servers")

    def test_not_for_clients(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT), check=verify_client, saying="not for clients")

    def test_must_not_sign(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, SERVER, key_usage("key_encipherment")))


class TestAlgorithms:
    @pytest.mark.parametrize("kind", ["rsa1024", "dsa", "p192", "k256"])
    def test_weak_or_strange_keys(self, kind):
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

    def test_an_exponent_of_a_leafs_choosing(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, kind="huge exponent"), saying="exponent")

    def test_keys_for_pss_only(self, tmp_path):
        """Keys that say that they are for RSA-PSS, and signatures with its SHA-1."""
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

    def test_rare_digest(self):
        refused(Alert.BAD_CERTIFICATE, server(ROOT, digest=hashes.SHA224()), saying="unsupported algorithm")

    def test_sha1(self, tmp_path):
        (tmp_path / "x").write_text("subjectAltName=DNS:a.example\nbasicConstraints=CA:TRUE\n")
        commands = """
            req -x509 -newkey rsa:2048 -nodes -keyout r.key -out r.pem -sha1 -days 90000 -subj /CN=root
            req -newkey rsa:2048 -nodes -keyout l.key -out l.csr -subj /CN=leaf
            x509 -req -in l.csr -CA r.pem -CAkey r.key -CAcreateserial -sha1 -days 90000 -extfile x -out 1.pem
            x509 -req -in l.csr -CA r.pem -CAkey r.key -sha256 -days 90000 -extfile x -out 256.pem
            x509 -req -in l.csr -CA 1.pem -CAkey l.key -CAcreateserial -days 90000 -extfile x -out below.pem"""
        openssl(tmp_path, *commands.strip().splitlines())
        verifier = ServerChainVerifier(TrustStore.from_pem((tmp_path / "r.pem").read_bytes()))
        made = {p.stem: x509.load_pem_x509_certificate(p.read_bytes()) for p in tmp_path.glob("*.pem")}
        der = {stem: c.public_bytes(Encoding.DER) for stem, c in made.items()}
        now = made["below"].not_valid_before_utc.timestamp() + 1
        verifier.verify((der["256"],), "a.example", now)  # what an anchor is signed with matters to nobody
        for chain in [(der["1"],), (der["below"], der["1"])]:
            with pytest.raises(PeerError) as caught:
                verifier.verify(chain, "a.example", now)
            assert caught.value.alert is Alert.BAD_CERTIFICATE  # RFC 8446 section 4.4.2.4
            assert "1.2.840.113549.1.1.5" in caught.value.reason


class TestNames:
    @pytest.mark.parametrize(
        ("san", "wanted"),
        [
            ("a.example", "a.example"),
            ("a.example", "A.Example"),
            ("a.example", "a.example."),
            ("A.EXAMPLE", "a.example"),
            ("*.a.example", "b.a.example"),
            ("xn--bcher-kva.example", "bücher.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("*.example", "bücher.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8:0::1"),
            ("fe80::1", "fe80::1%eth0"),
            ("localhost", "localhost"),
        ],
    )
    def test_match(self, san, wanted):
        verify(server(ROOT, san=san), server_name=wanted)

    @pytest.mark.parametrize(
        ("san", "wanted"),
        [
            ("a.example", "b.example"),
            ("a.example", "x.a.example"),
            ("*.a.example", "a.example"),
            ("*.a.example", "x.y.a.example"),
            ("w*.a.example", "www.a.example"),
            ("*", "localhost"),
            ("192.0.2.1", "192.0.2.2"),
            ("a.example", "192.0.2.1"),
            ("192.0.2.1", "a.example"),
        ],
    )
    def test_mismatch(self, san, wanted):
        reason = refused(
            Alert.BAD_CERTIFICATE, server(ROOT, san=san), server_name=wanted, saying=f"not good for {wanted}"
        )
        assert f"it is for {san}" in reason

    def test_an_address_as_dns_name_is_no_address(self):
        leaf = issue("leaf", ROOT, x509.SubjectAlternativeName([x509.DNSName("192.0.2.1")]), SERVER)
        refused(Alert.BAD_CERTIFICATE, leaf, server_name="192.0.2.1")

    def test_common_name_does_not_count(self):
        refused(Alert.BAD_CERTIFICATE, issue("a.example", ROOT, SERVER), saying="no subjectAltName")

    @pytest.mark.parametrize("wanted", ["", "a b", "a..b", "*.example", "-a.example", "a" * 64 + ".example", "\udcff"])
    def test_no_name_at_all(self, wanted):
        with pytest.raises(CallerError):
            verify(server(ROOT), server_name=wanted)


class TestNameConstraints:
    @pytest.mark.parametrize("where", ["root", "intermediate"])
    @pytest.mark.parametrize("critical", [None, False])
    @pytest.mark.parametrize(
        ("permitted", "excluded", "good"),
        [
            (["example"], None, True),
            (["a.example"], None, True),
            (["b.example"], None, False),
            (None, ["b.example"], True),
            (None, ["example"], False),
            (["example"], ["a.example"], False),
        ],
    )
    def test_of_dns_names(self, where, critical, permitted, excluded, good):
        subtrees = ([x509.DNSName(n) for n in s] if s else None for s in (permitted, excluded))
        constraints = (x509.NameConstraints(*subtrees),)
        top = issue("root", None, authority(), *(constraints if where == "root" else ()), number=100, critical=critical)
        below = constraints if where != "root" else ()
        middle = issue("intermediate", top, authority(), *below, number=101, critical=critical)
        chain = server(middle), middle
        if good:
            verify(*chain, anchors=[top])
        else:
            refused(Alert.BAD_CERTIFICATE, *chain, anchors=[top], saying="name constraint")

    def test_of_addresses(self):
        network = x509.IPAddress(ipaddress.ip_network("192.0.2.0/24"))
        middle = issue("intermediate", ROOT, authority(), x509.NameConstraints([network], None), number=101)
        verify(server(middle, san="192.0.2.1"), middle, server_name="192.0.2.1")
        refused(Alert.BAD_CERTIFICATE, server(middle, san="192.0.3.1"), middle, server_name="192.0.3.1")
        refused(Alert.BAD_CERTIFICATE, server(middle, san="a.example 192.0.3.1"), middle)

    def test_every_name_counts_not_only_the_one_wanted(self):
        middle = issue(
            "intermediate", ROOT, authority(), x509.NameConstraints([x509.DNSName("example")], None), number=101
        )
        refused(Alert.BAD_CERTIFICATE, server(middle, san="a.example a.test"), middle)

    def test_unsupported_ones_refuse(self):
        """Stricter than OpenSSL: a constraint on directory names is not understood, and so not ignored."""
        for critical in (None, False):
            subtree = x509.DirectoryName(x509.Name([]))
            middle = issue(
                "intermediate",
                ROOT,
                authority(),
                x509.NameConstraints([subtree], None),
                number=101,
                critical=critical,
            )
            refused(Alert.BAD_CERTIFICATE, client(middle), middle, check=verify_client, saying="constraint")


class TestBounds:
    def test_number(self):
        many = [root(f"junk {n}", number=9) for n in range(MAX_CERTIFICATES)]
        verify(server(ROOT), *many[1:])
        refused(Alert.BAD_CERTIFICATE, server(ROOT), *many, saying="limit")

    def test_size(self):
        with pytest.raises(PeerError) as caught:
            ServerChainVerifier(trust()).verify((server(ROOT).der, bytes(MAX_CERTIFICATE + 1)), "a.example", T)
        assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_none(self):
        with pytest.raises(PeerError) as caught:
            ServerChainVerifier(trust()).verify((), "a.example", T)
        assert caught.value.alert is Alert.DECODE_ERROR

    @pytest.mark.parametrize("junk", [b"", b"\x30\x03\x02\x01\x01", b"junk" * 1000])
    def test_not_a_certificate(self, junk):
        for chain in [(junk,), (server(ROOT).der, junk)]:
            with pytest.raises(PeerError) as caught:
                ServerChainVerifier(trust()).verify(chain, "a.example", T)
            assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_a_certificate_has_one_encoding(self):
        """No signature covers the count of unused bits before a signature."""
        leaf = server(ROOT)
        at = len(leaf.der) - len(leaf.certificate.signature) - 1
        for count in range(1, 8):
            encoded = leaf.der[:at] + bytes([count]) + leaf.der[at + 1 :]
            with pytest.raises(PeerError) as caught:
                ServerChainVerifier(trust()).verify((encoded,), "a.example", T)
            assert caught.value.alert is Alert.BAD_CERTIFICATE

    def test_many_ways_that_lead_nowhere(self):
        """Certificates that all issue each other: the search gives up instead of trying all orders."""
        ring = [issue("ring", None, authority(), number=9, serial=n + 1) for n in range(MAX_CERTIFICATES - 1)]
        refused(Alert.UNKNOWN_CA, server(ring[0]), *ring)
        edwards = [
            issue("ring", None, authority(), kind="ed25519", number=9, serial=n + 1)
            for n in range(MAX_CERTIFICATES - 1)
        ]
        refused(Alert.UNKNOWN_CA, server(edwards[0]), *edwards)

    def test_no_signature_is_checked_with_a_strangers_key(self):
        """They are named like what is trusted, and each check would take as long as a signature."""
        costly = [
            issue("root", None, authority(), kind="huge exponent", serial=n + 1) for n in range(MAX_CERTIFICATES - 1)
        ]
        leaf = server(costly[0])
        begin = time.process_time()
        refused(Alert.UNKNOWN_CA, leaf, *costly)
        assert time.process_time() - begin < 0.05  # 0.3 s and more otherwise

    def test_text_of_the_peer_is_escaped_and_cut(self):
        reason = refused(
            Alert.UNKNOWN_CA, server(root("evil\n\x1b[31m" + "x" * 50, number=9), common_name="\u202e" * 20)
        )
        assert reason.isascii()
        assert reason.isprintable()


class TestRevocation:
    LEAF = server(INTERMEDIATE)
    CLEAR = (RevocationList(revocation_list(ROOT)), RevocationList(revocation_list(INTERMEDIATE)))

    def check(self, *lists: bytes, required=False):
        revocations = RevocationLists(map(RevocationList, lists), required=required)
        verify(self.LEAF, INTERMEDIATE, revocations=revocations)

    def refused(self, alert: Alert, *lists: bytes, required=False, saying=""):
        with pytest.raises(PeerError) as caught:
            self.check(*lists, required=required)
        assert (caught.value.alert, saying in caught.value.reason) == (alert, True), caught.value.reason

    def test_not_revoked(self):
        self.check(revocation_list(ROOT), revocation_list(INTERMEDIATE, [server(INTERMEDIATE)]), required=True)

    def test_revoked(self):
        self.refused(Alert.CERTIFICATE_REVOKED, revocation_list(INTERMEDIATE, [self.LEAF]), saying="CN=leaf")
        self.refused(Alert.CERTIFICATE_REVOKED, revocation_list(ROOT, [INTERMEDIATE]), saying="CN=intermediate")

    def test_pem(self):
        encoded = x509.load_der_x509_crl(revocation_list(INTERMEDIATE, [self.LEAF]))
        self.refused(Alert.CERTIFICATE_REVOKED, encoded.public_bytes(Encoding.PEM))

    def test_a_client(self):
        leaf = client(ROOT)
        lists = RevocationLists([RevocationList(revocation_list(ROOT, [leaf]))])
        refused(Alert.CERTIFICATE_REVOKED, leaf, check=verify_client, revocations=lists)

    def test_below_an_edwards_authority(self):
        top = root(kind="ed25519")
        leaf = server(top)
        lists = RevocationLists([RevocationList(revocation_list(top, [leaf]))])
        refused(Alert.CERTIFICATE_REVOKED, leaf, anchors=[top], revocations=lists)

    def test_out_of_date(self):
        for dates in [{"end": NOW - DAY / 2}, {"begin": NOW + DAY / 2}]:
            self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(INTERMEDIATE, **dates), saying="out of date")
            self.check(revocation_list(INTERMEDIATE, **dates), revocation_list(INTERMEDIATE))

    def test_out_of_date_but_revoked(self):
        stale = revocation_list(INTERMEDIATE, [self.LEAF], end=NOW - DAY / 2)
        self.refused(Alert.CERTIFICATE_REVOKED, stale)
        self.refused(Alert.CERTIFICATE_REVOKED, stale, revocation_list(INTERMEDIATE))

    def test_forged(self):
        forger = issue("intermediate", None, authority(), number=5)
        self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(forger), saying="not signed by it")
        self.check(revocation_list(forger, [self.LEAF]), revocation_list(INTERMEDIATE))

    def test_issuer_that_may_not_sign_lists(self):
        middle = issue("intermediate", ROOT, authority(), key_usage("key_cert_sign"), number=101)
        lists = RevocationLists([RevocationList(revocation_list(middle))])
        refused(Alert.CERTIFICATE_UNKNOWN, server(middle), middle, revocations=lists)

    def test_missing(self):
        self.check(revocation_list(INTERMEDIATE))
        self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(INTERMEDIATE), required=True, saying="is missing")

    def test_scope(self):
        def scoped(**only):
            fields = {
                "full_name": None,
                "relative_name": None,
                "only_contains_user_certs": False,
                "only_contains_ca_certs": False,
                "only_some_reasons": None,
                "indirect_crl": False,
                "only_contains_attribute_certs": False,
            }
            return [(x509.IssuingDistributionPoint(**{**fields, **only}), True)]

        for_users = revocation_list(ROOT, [INTERMEDIATE], extensions=scoped(only_contains_user_certs=True))
        self.check(for_users)
        self.refused(Alert.CERTIFICATE_UNKNOWN, for_users, revocation_list(INTERMEDIATE), required=True)
        with pytest.raises(ValueError, match="not supported"):
            RevocationList(revocation_list(ROOT, extensions=scoped(indirect_crl=True)))
        with pytest.raises(ValueError, match="not supported"):
            RevocationList(revocation_list(ROOT, extensions=[(x509.DeltaCRLIndicator(1), True)]))

    @pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN X509 CRL-----\njunk", revocation_list(ROOT)[:-9]])
    def test_not_a_list(self, junk):
        with pytest.raises(ValueError, match="revocation list"):
            RevocationList(junk)


class TestTrustStore:
    @pytest.mark.parametrize("anchors", [[], [b"junk"], [ROOT.der, b""]])
    def test_der(self, anchors):
        with pytest.raises(ValueError, match="trust"):
            TrustStore.from_der(anchors)

    @pytest.mark.parametrize(
        "bundle", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"]
    )
    def test_pem(self, bundle):
        with pytest.raises(ValueError, match="trust store"):
            TrustStore.from_pem(bundle)

    def test_duplicates_count_once(self):
        assert len(TrustStore.from_pem((ROOT.pem + b"\n# a comment\n") * 3 + INTERMEDIATE.pem)) == 2

    def test_another_verifier_has_other_anchors(self):
        leaf = server(ROOT)
        one, other = ServerChainVerifier(trust()), ServerChainVerifier(trust(root("other", number=9)))
        one.verify((leaf.der,), "a.example", T)
        with pytest.raises(PeerError):
            other.verify((leaf.der,), "a.example", T)
        one.verify((leaf.der,), "a.example", T)


EDWARDS = root("edwards", kind="ed25519")
MUTABLE = {
    "chain": ((server(INTERMEDIATE, SERVER, key_usage("digital_signature")).der, INTERMEDIATE.der), ROOT),
    "edwards": ((server(EDWARDS).der, EDWARDS.der), EDWARDS),
    "constrained": (
        (
            server(INTERMEDIATE).der,
            issue("intermediate", ROOT, authority(), x509.NameConstraints([x509.DNSName("x")], None), number=101).der,
        ),
        ROOT,
    ),
}


@pytest.mark.parametrize("which", MUTABLE)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_mutation_is_a_peer_error_or_no_matter(which, data):
    chain, anchor = MUTABLE[which]
    mutated = [bytearray(each) for each in chain]
    victim = mutated[data.draw(st.integers(0, len(mutated) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(victim) - 1))
        victim[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    encoded = tuple(map(bytes, mutated))
    lists = RevocationLists([RevocationList(revocation_list(ROOT))])
    for check in [
        lambda: ServerChainVerifier(trust(anchor), lists).verify(encoded, "a.example", T),
        lambda: ClientChainVerifier(trust(anchor), lists).verify(encoded, T),
    ]:
        with contextlib.suppress(PeerError):
            check()
