"""Verification of chains: valid ones are accepted, each defect is refused with its alert and reason."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, CallerError, PeerError
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
    revocation_list,
    root,
    server,
    usages,
)
from tests.tls.x509.chains import INTERMEDIATE, ROOT, T, lists_of, refused, trust, verify, verify_client


class TestGoodChains:
    @pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "mldsa44", "mldsa65", "mldsa87"])
    @pytest.mark.parametrize("leaf_kind", ["p256", "ed25519", "ed448", "rsa2048"])
    def test_every_key_type_is_accepted(self, kind, leaf_kind):
        verify(server(root(kind=kind), kind=leaf_kind), anchors=[root(kind=kind)])

    def test_intermediate_is_accepted(self):
        verify(server(INTERMEDIATE, number=101), INTERMEDIATE)
        verify_client(client(INTERMEDIATE, number=101), INTERMEDIATE)

    def test_unordered_chain_with_root_and_duplicates_is_accepted(self):
        leaf = server(INTERMEDIATE, number=101)
        verify(leaf, ROOT, root("junk", number=7), INTERMEDIATE, INTERMEDIATE, leaf)

    def test_second_path_of_a_cross_signed_chain_is_found(self):
        """There are two paths, and only the second one leads to an anchor."""
        other = root("other root", number=8)
        crossed = issue("intermediate", other, authority(), number=101)
        verify(server(INTERMEDIATE, number=101), INTERMEDIATE, crossed, anchors=[other])
        verify(server(INTERMEDIATE, number=101), crossed, INTERMEDIATE)

    def test_expired_cross_certificate_is_ignored(self):
        expired = issue("intermediate", root("gone", number=9), authority(), number=101, end=NOW - DAY / 2)
        verify(server(INTERMEDIATE, number=101), expired, INTERMEDIATE)

    def test_intermediate_may_be_the_anchor(self):
        verify(server(INTERMEDIATE, number=101), anchors=[INTERMEDIATE])

    def test_authority_with_fitting_usages_is_accepted(self):
        for extensions in [
            (key_usage("key_cert_sign"),),
            (usages(Usage.SERVER_AUTH, Usage.CLIENT_AUTH),),
            (usages(Usage.ANY_EXTENDED_KEY_USAGE),),
        ]:
            verify(server(INTERMEDIATE), issue("intermediate", ROOT, authority(), *extensions, number=101))

    def test_leaf_without_extended_key_usage_is_for_any_purpose(self):
        leaf = issue("leaf", ROOT, names("a.example"))
        verify(leaf)
        verify_client(leaf)

    def test_leaf_may_be_an_authority_too(self):
        verify(server(ROOT, SERVER, authority(0), key_usage("digital_signature", "key_cert_sign")))

    def test_client_needs_no_name(self):
        verify_client(client(ROOT))

    def test_supported_critical_extensions_are_accepted(self):
        leaf = server(INTERMEDIATE, SERVER, key_usage("digital_signature"), critical=True)
        verify(
            leaf,
            issue("intermediate", ROOT, authority(), key_usage("key_cert_sign"), SERVER, critical=True, number=101),
        )

    def test_critical_policies_are_accepted(self):
        policy = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)])
        verify(server(INTERMEDIATE), issue("intermediate", ROOT, authority(), policy, number=101))


class TestDates:
    def test_leaf_outside_its_validity_is_refused(self):
        reason = refused(
            Alert.CERTIFICATE_EXPIRED, server(ROOT, end=NOW - DAY / 2), saying="expired at 2026-11-24 00:00"
        )
        assert "CN=leaf" in reason
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT, begin=NOW + DAY), saying="not valid before")
        verify(server(ROOT, end=NOW), now=T)
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT, end=NOW), now=T + 1)

    def test_expired_intermediate_and_root_are_refused(self):
        expired = issue("intermediate", ROOT, authority(), number=101, end=NOW - DAY / 2)
        refused(Alert.CERTIFICATE_EXPIRED, server(expired), expired, saying="CN=intermediate")
        refused(Alert.CERTIFICATE_EXPIRED, server(ROOT), anchors=[root(end=NOW - DAY / 2)], saying="CN=root")

    def test_expired_leaf_is_refused_as_its_own_anchor(self):
        leaf = server(None, end=NOW - DAY / 2)
        refused(Alert.CERTIFICATE_EXPIRED, leaf, anchors=[leaf])


class TestIssuers:
    def test_unknown_issuer_is_refused(self):
        refused(Alert.UNKNOWN_CA, server(root("stranger", number=9)), saying="CN=stranger")
        refused(Alert.UNKNOWN_CA, server(INTERMEDIATE))
        refused(Alert.UNKNOWN_CA, client(root("stranger", number=9)), check=verify_client)

    def test_other_issuer_of_the_same_name_is_refused(self):
        refused(Alert.UNKNOWN_CA, server(root(number=9)))
        refused(Alert.UNKNOWN_CA, server(root(number=9)), root(number=9))

    def test_issuer_that_is_not_an_authority_is_refused(self):
        for extensions in [(), (x509.BasicConstraints(ca=False, path_length=None),)]:
            middle = issue("intermediate", ROOT, *extensions, number=101)
            refused(Alert.BAD_CERTIFICATE, server(middle), middle, saying="is not a certificate authority")

    def test_path_length_is_enforced(self):
        short = issue("root", None, authority(0), number=100)
        verify(server(short), anchors=[short])
        refused(Alert.BAD_CERTIFICATE, server(INTERMEDIATE), INTERMEDIATE, anchors=[short], saying="path length")

    def test_authority_with_other_usages_is_refused(self):
        for extension in [key_usage("digital_signature", "crl_sign"), CLIENT]:
            middle = issue("intermediate", ROOT, authority(), extension, number=101)
            refused(Alert.UNSUPPORTED_CERTIFICATE, server(middle), middle, saying="CN=intermediate")

    def test_unknown_critical_extension_is_refused(self):
        odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")
        refused(Alert.BAD_CERTIFICATE, server(ROOT, SERVER, odd), saying="1.2.3")
        middle = issue("intermediate", ROOT, authority(), odd, number=101)
        refused(Alert.BAD_CERTIFICATE, server(middle), middle, saying="1.2.3")


class TestUsages:
    @pytest.mark.parametrize("wrong", [CLIENT, usages(Usage.CODE_SIGNING), usages(Usage.ANY_EXTENDED_KEY_USAGE)])
    def test_usages_without_server_are_refused(self, wrong):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, wrong), saying="not for servers")

    def test_usages_without_client_are_refused(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT), check=verify_client, saying="not for clients")

    def test_key_usage_without_signatures_is_refused(self):
        refused(Alert.UNSUPPORTED_CERTIFICATE, server(ROOT, SERVER, key_usage("key_encipherment")))


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
            ("*.a.example", "bücher.a.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8:0::1"),
            ("fe80::1", "fe80::1%eth0"),
            ("localhost", "localhost"),
        ],
    )
    def test_matching_name_is_accepted(self, san, wanted):
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
            ("*.example", "a.example"),
            ("192.0.2.1", "192.0.2.2"),
            ("a.example", "192.0.2.1"),
            ("192.0.2.1", "a.example"),
        ],
    )
    def test_other_name_is_refused(self, san, wanted):
        reason = refused(
            Alert.BAD_CERTIFICATE, server(ROOT, san=san), server_name=wanted, saying=f"not valid for {wanted}"
        )
        assert f"it is for {san}" in reason

    def test_address_in_a_dns_name_is_refused(self):
        leaf = issue("leaf", ROOT, x509.SubjectAlternativeName([x509.DNSName("192.0.2.1")]), SERVER)
        refused(Alert.BAD_CERTIFICATE, leaf, server_name="192.0.2.1")

    def test_common_name_is_ignored(self):
        refused(Alert.BAD_CERTIFICATE, issue("a.example", ROOT, SERVER), saying="no subjectAltName")

    @pytest.mark.parametrize("wanted", ["", "a b", "a..b", "*.example", "-a.example", "a" * 64 + ".example", "\udcff"])
    def test_invalid_server_name_is_caller_error(self, wanted):
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
    def test_dns_constraints_are_enforced(self, where, critical, permitted, excluded, good):
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

    def test_address_constraints_are_enforced(self):
        network = x509.IPAddress(ipaddress.ip_network("192.0.2.0/24"))
        middle = issue("intermediate", ROOT, authority(), x509.NameConstraints([network], None), number=101)
        verify(server(middle, san="192.0.2.1"), middle, server_name="192.0.2.1")
        refused(Alert.BAD_CERTIFICATE, server(middle, san="192.0.3.1"), middle, server_name="192.0.3.1")
        refused(Alert.BAD_CERTIFICATE, server(middle, san="a.example 192.0.3.1"), middle)

    def test_constraints_apply_to_every_name(self):
        middle = issue(
            "intermediate", ROOT, authority(), x509.NameConstraints([x509.DNSName("example")], None), number=101
        )
        refused(Alert.BAD_CERTIFICATE, server(middle, san="a.example a.test"), middle)


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
def test_mutated_chain_is_accepted_or_peer_error(which, data):
    chain, anchor = MUTABLE[which]
    mutated = [bytearray(each) for each in chain]
    victim = mutated[data.draw(st.integers(0, len(mutated) - 1))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(victim) - 1))
        victim[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    encoded = tuple(map(bytes, mutated))
    lists = lists_of(revocation_list(ROOT))
    for check in [
        lambda: ServerChainVerifier(trust(anchor), lists).verify(encoded, "a.example", T),
        lambda: ClientChainVerifier(trust(anchor), lists).verify(encoded, T),
    ]:
        with contextlib.suppress(PeerError):
            check()
