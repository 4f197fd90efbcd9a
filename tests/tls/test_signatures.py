"""Signature schemes of each key type, invalid signatures, and signers."""

import pytest
from cryptography import x509

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.model import KeyType, SignatureScheme
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.signatures import SUPPORTED_SCHEMES, choose_scheme, signed_content, verify
from handshaked.tls.x509.certificates import pull_chain
from handshaked.tls.x509.keys import key_type_of
from tests import raw_certificates as raw
from tests.certificates import key as certificates_key
from tests.tls.pair import credential

RSA = certificates_key("rsa2048")
TRANSCRIPT = bytes(32)  # a hash
CONTENT = signed_content(TRANSCRIPT, by_server=True)


def certificate(key_type: KeyType) -> x509.Certificate:
    return x509.load_der_x509_certificate(credential(key_type).chain[0])


@pytest.mark.parametrize("key_type", KeyType)
def test_every_scheme_of_a_key_signs_and_verifies(key_type: KeyType) -> None:
    for scheme in key_type.schemes:
        signature = credential(key_type).signer.sign(scheme, TRANSCRIPT, by_server=True)
        verify(certificate(key_type), scheme, signature, CONTENT)


@pytest.mark.parametrize("key_type", KeyType)
def test_other_schemes_are_refused(key_type: KeyType) -> None:
    for scheme in {*SUPPORTED_SCHEMES, 0x0401, 0x0201, 0xFFFF} - set(key_type.schemes):
        with pytest.raises(PeerError) as caught:
            verify(certificate(key_type), scheme, bytes(64), CONTENT)
        assert caught.value.alert is Alert.ILLEGAL_PARAMETER


@pytest.mark.parametrize("key_type", KeyType)
@pytest.mark.parametrize("signature", [b"", b"\0", bytes(64), b"\x30\x06\x02\x01\0\x02\x01\0", bytes(5000)])
def test_malformed_signatures_are_refused(key_type: KeyType, signature: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        verify(certificate(key_type), key_type.schemes[0], signature, CONTENT)
    assert caught.value.alert is Alert.DECRYPT_ERROR


@pytest.mark.parametrize("key_type", KeyType)
def test_signature_for_the_other_role_is_refused(key_type: KeyType) -> None:
    scheme = key_type.schemes[0]
    signature = credential(key_type).signer.sign(scheme, TRANSCRIPT, by_server=False)
    with pytest.raises(PeerError) as caught:
        verify(certificate(key_type), scheme, signature, CONTENT)
    assert caught.value.alert is Alert.DECRYPT_ERROR


def test_signed_content_is_that_of_the_rfc() -> None:
    # RFC 8446 section 4.4.3: 64 spaces, the context, a zero, the transcript hash
    assert signed_content(b"hash", by_server=True) == b" " * 64 + b"TLS 1.3, server CertificateVerify\0hash"
    assert signed_content(b"hash", by_server=False) == b" " * 64 + b"TLS 1.3, client CertificateVerify\0hash"


def test_signing_with_an_unsuitable_scheme_is_a_local_error() -> None:
    with pytest.raises(LocalError):
        credential(KeyType.RSA).signer.sign(SignatureScheme.ED25519, TRANSCRIPT, by_server=True)
    with pytest.raises(LocalError):
        credential(KeyType.ECDSA_P256).signer.sign(SignatureScheme.RSA_PSS_RSAE_SHA256, TRANSCRIPT, by_server=True)


def test_best_offered_scheme_is_chosen() -> None:
    rsa = KeyType.RSA
    assert choose_scheme(rsa, (0x0806, 0x0804)) is SignatureScheme.RSA_PSS_RSAE_SHA256
    assert choose_scheme(rsa, (0x0806,)) is SignatureScheme.RSA_PSS_RSAE_SHA512
    assert choose_scheme(rsa, (0x0401, 0x0809)) is None


def test_repr_of_a_signer_omits_the_private_key() -> None:
    assert repr(credential().signer) == "PrivateKeySigner()"


class TestRestrictedKeys:
    """RSA-PSS keys whose certificate has parameters (RFC 4055 section 3.1, RFC 8446 section 4.2.3)."""

    def restricted(self, *parameters) -> x509.Certificate:
        made = raw.certificate(RSA, raw.common_name("a"), key_algorithm=raw.pss_algorithm(*parameters))
        return x509.load_der_x509_certificate(made.der)

    @pytest.mark.parametrize(
        ("parameters", "fitting"),
        [
            ((), {0x0809, 0x080A, 0x080B}),
            (("sha256", "sha256", 32), {0x0809}),
            (("sha384", "sha384", 48), {0x080A}),
            (("sha512", "sha512", 64), {0x080B}),
            (("sha384", "sha384", 20), {0x080A}),
            (("sha512", "sha512", 0), {0x080B}),
        ],
    )
    def test_only_the_schemes_that_the_key_allows_are_accepted(self, parameters, fitting):
        holder = self.restricted(*parameters)
        assert set(key_type_of(holder).schemes) == fitting
        for scheme in (0x0809, 0x080A, 0x080B):
            signature = PrivateKeySigner(RSA).sign(SignatureScheme(scheme), TRANSCRIPT, by_server=True)
            if scheme in fitting:
                verify(holder, scheme, signature, CONTENT)
            else:
                with pytest.raises(PeerError, match="does not fit") as caught:
                    verify(holder, scheme, signature, CONTENT)
                assert caught.value.alert is Alert.ILLEGAL_PARAMETER

    @pytest.mark.parametrize(
        "parameters",
        [
            ("sha1", "sha1", 20),
            ("sha224", "sha224", 28),
            ("sha256", "sha1", 20),  # what OpenSSL makes without rsa_pss_keygen_mgf1_md
            ("sha256", "sha384", 32),
            ("sha256", "sha256", 33),
            ("sha512", "sha512", 65),
        ],
    )
    def test_key_that_no_scheme_fits_is_refused(self, parameters):
        holder = self.restricted(*parameters)
        with pytest.raises(PeerError, match="restricted to") as caught:
            verify(holder, 0x0809, bytes(256), CONTENT)
        assert caught.value.alert is Alert.UNSUPPORTED_CERTIFICATE

    @pytest.mark.parametrize(
        "parameters",
        [
            b"\5\0",
            raw.sequence(raw.tlv(0xA2, raw.integer(-1))),
            raw.sequence(raw.tlv(0xA2, raw.integer(1 << 40))),
            raw.sequence(raw.tlv(0xA3, raw.integer(2))),
            raw.sequence(raw.tlv(0xA2, raw.integer(20)), raw.tlv(0xA0, raw.digest_algorithm("sha256"))),
            raw.sequence(raw.tlv(0xA1, raw.digest_algorithm("sha256"))),
            raw.sequence(raw.tlv(0xA0, raw.integer(1))),
            raw.sequence(raw.tlv(0xA4, raw.integer(1))),
            raw.sequence() + raw.sequence(),
        ],
    )
    def test_malformed_parameters_are_refused(self, parameters):
        algorithm = raw.sequence(raw.oid("1.2.840.113549.1.1.10"), parameters)
        holder = raw.certificate(RSA, raw.common_name("a"), key_algorithm=algorithm)
        with pytest.raises(PeerError) as caught:
            verify(pull_chain((holder.der,))[0], 0x0809, bytes(256), CONTENT)
        assert caught.value.alert in (Alert.BAD_CERTIFICATE, Alert.UNSUPPORTED_CERTIFICATE)
