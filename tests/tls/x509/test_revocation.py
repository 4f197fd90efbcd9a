"""Revocation lists: fresh, stale, forged, missing, of another scope."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert, PeerError
from tests.certificates import (
    DAY,
    NOW,
    SERVER,
    authority,
    client,
    issue,
    key_usage,
    revocation_list,
    root,
    scoped,
    server,
)
from tests.tls.x509.chains import INTERMEDIATE, ROOT, lists_of, refused, verify, verify_client


class TestRevocation:
    LEAF = server(INTERMEDIATE)

    def check(self, *lists: bytes, required=False):
        verify(self.LEAF, INTERMEDIATE, revocations=lists_of(*lists, required=required))

    def refused(self, alert: Alert, *lists: bytes, required=False, saying=""):
        with pytest.raises(PeerError) as caught:
            self.check(*lists, required=required)
        assert (caught.value.alert, saying in caught.value.reason) == (alert, True), caught.value.reason

    def test_certificate_not_on_the_list_is_accepted(self):
        self.check(revocation_list(ROOT), revocation_list(INTERMEDIATE, [server(INTERMEDIATE)]), required=True)

    def test_certificate_on_the_list_is_refused(self):
        self.refused(Alert.CERTIFICATE_REVOKED, revocation_list(INTERMEDIATE, [self.LEAF]), saying="CN=leaf")
        self.refused(Alert.CERTIFICATE_REVOKED, revocation_list(ROOT, [INTERMEDIATE]), saying="CN=intermediate")

    def test_list_in_pem_revokes(self):
        encoded = x509.load_der_x509_crl(revocation_list(INTERMEDIATE, [self.LEAF]))
        self.refused(Alert.CERTIFICATE_REVOKED, encoded.public_bytes(Encoding.PEM))

    def test_client_is_revoked(self):
        leaf = client(ROOT)
        lists = lists_of(revocation_list(ROOT, [leaf]))
        refused(Alert.CERTIFICATE_REVOKED, leaf, check=verify_client, revocations=lists)

    def test_list_of_an_edwards_authority_revokes(self):
        top = root(kind="ed25519")
        leaf = server(top)
        lists = lists_of(revocation_list(top, [leaf]))
        refused(Alert.CERTIFICATE_REVOKED, leaf, anchors=[top], revocations=lists)

    def test_stale_list_refuses_the_rest(self):
        for dates in [{"end": NOW - DAY / 2}, {"begin": NOW + DAY / 2}]:
            self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(INTERMEDIATE, **dates), saying="out of date")
            self.check(revocation_list(INTERMEDIATE, **dates), revocation_list(INTERMEDIATE))

    def test_stale_list_still_revokes(self):
        stale = revocation_list(INTERMEDIATE, [self.LEAF], end=NOW - DAY / 2)
        self.refused(Alert.CERTIFICATE_REVOKED, stale)
        self.refused(Alert.CERTIFICATE_REVOKED, stale, revocation_list(INTERMEDIATE))

    def test_forged_list_counts_for_nothing(self):
        forger = issue("intermediate", None, authority(), number=5)
        self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(forger), saying="not signed by it")
        self.check(revocation_list(forger, [self.LEAF]), revocation_list(INTERMEDIATE))

    def test_list_of_an_issuer_without_crl_sign_counts_for_nothing(self):
        middle = issue("intermediate", ROOT, authority(), key_usage("key_cert_sign"), number=101)
        lists = lists_of(revocation_list(middle))
        refused(Alert.CERTIFICATE_UNKNOWN, server(middle), middle, revocations=lists)

    def test_missing_list_is_refused_only_if_required(self):
        self.check(revocation_list(INTERMEDIATE))
        self.refused(Alert.CERTIFICATE_UNKNOWN, revocation_list(INTERMEDIATE), required=True, saying="is missing")

    def test_list_covers_only_its_scope(self):
        for_users = revocation_list(ROOT, [INTERMEDIATE], extensions=scoped(only_contains_user_certs=True))
        self.check(for_users)
        self.refused(Alert.CERTIFICATE_UNKNOWN, for_users, revocation_list(INTERMEDIATE), required=True)

    def test_list_for_a_distribution_point_is_complete_only_for_its_certificates(self):
        points = [[x509.UniformResourceIdentifier(f"http://a.example/{shard}.crl")] for shard in "12"]
        first, second = (scoped(full_name=point) for point in points)
        leaf = server(INTERMEDIATE, SERVER, x509.CRLDistributionPoints([point(points[0])]))
        of_first, of_second = (revocation_list(INTERMEDIATE, extensions=one) for one in (first, second))
        verify(leaf, INTERMEDIATE, revocations=lists_of(of_first, of_second))
        refused(Alert.CERTIFICATE_UNKNOWN, leaf, INTERMEDIATE, revocations=lists_of(of_second))
        self.refused(Alert.CERTIFICATE_UNKNOWN, of_first, saying="only for other distribution points")
        self.check(of_first, revocation_list(INTERMEDIATE))
        self.refused(Alert.CERTIFICATE_REVOKED, revocation_list(INTERMEDIATE, [self.LEAF], extensions=second))


def point(names: list[x509.GeneralName]) -> x509.DistributionPoint:
    """The distribution point with `names`."""
    return x509.DistributionPoint(names, None, None, None)
