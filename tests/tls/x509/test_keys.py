"""Limits that RSA-PSS keys set on what they sign: certificates and revocation lists (RFC 4055 section 3.3)."""

from __future__ import annotations

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_anchors
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.verification import ServerChainVerifier
from tests import raw_certificates as raw
from tests.certificates import NOW, key
from tests.raw_certificates import Signing

T = NOW.timestamp()
SHA256 = ("sha256", "sha256", 32)
CRL_SERIAL = 99


def authority(*parameters: object, pss: bool = True) -> raw.Raw:
    algorithm = raw.pss_algorithm(*parameters) if pss else None
    return raw.certificate(
        key("rsa2048"), raw.common_name("root"), None, raw.basic_constraints(True), key_algorithm=algorithm
    )


def leaf(issuer: raw.Raw, signing: Signing, **options: object) -> raw.Raw:
    names = raw.alternative_names(raw.dns("a.example"))
    return raw.certificate(key("p256"), raw.common_name("leaf"), issuer, names, signing=signing, **options)


def verify(issuer: raw.Raw, signing: Signing, lists: RevocationLists | None = None) -> None:
    verifier = ServerChainVerifier(read_trust_anchors([issuer.der], "trust"), lists or RevocationLists())
    verifier.verify((leaf(issuer, signing).der,), "a.example", T)


@pytest.mark.parametrize(
    ("limits", "signing", "good"),
    [
        ((), Signing(pss=True), True),
        ((), Signing("sha512", pss=True, salt=20), True),
        (SHA256, Signing(pss=True), True),
        (SHA256, Signing(pss=True, salt=40), True),
        (("sha384", "sha384", 20), Signing("sha384", pss=True, salt=48), True),
        (SHA256, Signing(pss=True, salt=20), False),
        (SHA256, Signing("sha384", pss=True, salt=48), False),
        (SHA256, Signing(pss=True, mask_digest="sha384"), False),
        (SHA256, Signing(), False),  # PKCS #1 v1.5: another algorithm than the key's
        ((), Signing(), False),
    ],
)
def test_authority_signs_within_the_limits_of_its_key(limits, signing, good):
    issuer = authority(*limits)
    lists = RevocationLists(
        read_revocation_lists(raw.revocation_list(issuer, (CRL_SERIAL,), signing=signing), "list"), required=True
    )
    if good:
        verify(issuer, signing)
        verify(issuer, signing, lists)
        return
    with pytest.raises(PeerError) as caught:
        verify(issuer, signing)
    assert caught.value.alert is Alert.UNKNOWN_CA
    good_signing = Signing(limits[0] if limits else "sha256", pss=True)
    with pytest.raises(PeerError, match="is not signed by it") as caught:
        verify(issuer, good_signing, lists)
    assert caught.value.alert is Alert.CERTIFICATE_UNKNOWN


def test_ordinary_key_signs_with_either_padding():
    for signing in (Signing(), Signing(pss=True), Signing("sha512", pss=True, salt=32)):
        verify(authority(pss=False), signing)
