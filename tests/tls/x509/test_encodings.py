"""Certificates with unusual encodings: accepted as RFC 5280 says, or refused as unsupported and not as malformed."""

from __future__ import annotations

import pytest

from handshaked.errors import Alert, PeerError, RefusedError, UnreadableError
from handshaked.registry.credentials import load_pem
from handshaked.tls.x509.readers import read_certificate, read_trust_anchors
from handshaked.tls.x509.verification import ServerChainVerifier
from tests import raw_certificates as raw
from tests.certificates import NOW, key, pem_block

ROOT = raw.certificate(key("p256", 100), raw.common_name("root"), None, raw.basic_constraints(True))
NAMES = raw.alternative_names(raw.dns("a.example"))


def verify(*extensions: bytes, **options: object) -> None:
    leaf = raw.certificate(key("p256"), raw.common_name("leaf"), ROOT, NAMES, *extensions, **options)
    ServerChainVerifier(read_trust_anchors([ROOT.der], "trust")).verify((leaf.der,), "a.example", NOW.timestamp())


@pytest.mark.parametrize(
    "options",
    [
        {"dates": (raw.generalized_time("20261123120000Z"), raw.generalized_time("20261224120000Z"))},
        {"dates": (raw.utc_time("261123120000Z"), raw.generalized_time("20600101000000Z"))},
        {"dates": (raw.utc_time("261123120000Z"), raw.generalized_time("99991231235959Z"))},
        {"serial": 0},
        {"serial": -5},
        {"serial": 1 << 159},
        {"serial": 1 << 200},
    ],
)
def test_unusual_dates_and_serial_numbers_are_accepted(options):
    """RFC 5280 section 4.1.2.5: "MUST be able to process validity dates that are encoded in either"; 4.1.2.2."""
    verify(**options)


@pytest.mark.parametrize(
    ("extensions", "options"),
    [
        ((raw.basic_constraints(False),), {}),
        ((raw.key_usage(0, critical=False),), {}),
        ((), {"version": 0}),
    ],
)
def test_encoded_defaults_are_reported_as_such(extensions, options):
    with pytest.raises(PeerError, match="unsupported certificate: a default value is encoded in ") as caught:
        verify(*extensions, **options)
    assert caught.value.alert is Alert.UNSUPPORTED_CERTIFICATE


def test_encoded_default_in_a_file_is_reported_as_such():
    made = raw.certificate(key("p256"), raw.common_name("a"), None, raw.key_usage(0, critical=False))
    with pytest.raises(
        UnreadableError, match=r"a.pem: a default value is encoded in Extension::critical, .* reissue it$"
    ):
        read_certificate(made.der, "a.pem")


def test_names_of_unsupported_forms_are_reported_as_such():
    leaf = raw.certificate(
        key("p256"), raw.common_name("leaf"), ROOT, raw.alternative_names(raw.tlv(0xA3, raw.sequence()))
    )
    with pytest.raises(PeerError, match="unsupported certificate: x400Address/EDIPartyName") as caught:
        ServerChainVerifier(read_trust_anchors([ROOT.der], "trust")).verify((leaf.der,), "a.example", NOW.timestamp())
    assert caught.value.alert is Alert.UNSUPPORTED_CERTIFICATE


def test_unknown_tls_feature_is_no_other_error():
    """`cryptography` raises KeyError about it (RFC 7633)."""
    feature = raw.extension("1.3.6.1.5.5.7.1.24", raw.sequence(raw.integer(1285)))
    with pytest.raises(PeerError) as caught:
        verify(feature)
    assert caught.value.alert is Alert.BAD_CERTIFICATE
    made = raw.certificate(key("p256"), raw.common_name("a"), None, feature)
    with pytest.raises(RefusedError, match=r"a.pem: certificate"):
        load_pem(
            pem_block("CERTIFICATE", made.der),
            pem_block("PRIVATE KEY", raw.private_key(made.key)),
            names=("a.pem", "k"),
        )
