"""Signature schemes of each key type, invalid signatures, and signers."""

from dataclasses import replace

import pytest
from cryptography import x509

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.model import ClientAuth, KeyType, SignatureScheme
from handshaked.tls.parameters import Signer
from handshaked.tls.signatures import SUPPORTED_SCHEMES, choose_scheme, signed_content, verify
from tests.tls.pair import client_parameters, credential, pair, server_parameters
from tests.tls.test_client_auth import Verifier

CONTENT = signed_content(bytes(32), by_server=True)


def certificate(key_type: KeyType) -> x509.Certificate:
    return x509.load_der_x509_certificate(credential(key_type).chain[0])


@pytest.mark.parametrize("key_type", KeyType)
def test_every_scheme_of_a_key_signs_and_verifies(key_type: KeyType) -> None:
    for scheme in key_type.schemes:
        verify(certificate(key_type), scheme, credential(key_type).signer.sign(scheme, CONTENT), CONTENT)


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
    signature = credential(key_type).signer.sign(scheme, signed_content(bytes(32), by_server=False))
    with pytest.raises(PeerError) as caught:
        verify(certificate(key_type), scheme, signature, CONTENT)
    assert caught.value.alert is Alert.DECRYPT_ERROR


def test_signed_content_is_that_of_the_rfc() -> None:
    # RFC 8446 section 4.4.3: 64 spaces, the context, a zero, the transcript hash
    assert signed_content(b"hash", by_server=True) == b" " * 64 + b"TLS 1.3, server CertificateVerify\0hash"
    assert signed_content(b"hash", by_server=False) == b" " * 64 + b"TLS 1.3, client CertificateVerify\0hash"


def test_signing_with_an_unsuitable_scheme_is_a_local_error() -> None:
    with pytest.raises(LocalError):
        credential(KeyType.RSA).signer.sign(SignatureScheme.ED25519, CONTENT)
    with pytest.raises(LocalError):
        credential(KeyType.ECDSA_P256).signer.sign(SignatureScheme.RSA_PSS_RSAE_SHA256, CONTENT)


def test_best_offered_scheme_is_chosen() -> None:
    rsa = KeyType.RSA
    assert choose_scheme(rsa, (0x0806, 0x0804)) is SignatureScheme.RSA_PSS_RSAE_SHA256
    assert choose_scheme(rsa, (0x0806,)) is SignatureScheme.RSA_PSS_RSAE_SHA512
    assert choose_scheme(rsa, (0x0401, 0x0809)) is None


class RecordingSigner:
    """Records the contents to sign, and passes them to another signer."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.contents: list[bytes] = []

    def sign(self, scheme: SignatureScheme, content: bytes) -> bytes:
        """As of Signer."""
        self.contents.append(content)
        return self._signer.sign(scheme, content)


def test_each_side_requests_one_signature_from_its_signer() -> None:
    server, client = RecordingSigner(credential().signer), RecordingSigner(credential().signer)
    pair(
        client_parameters(credential=replace(credential(), signer=client)),
        server_parameters(
            credential=replace(credential(), signer=server),
            client_auth=ClientAuth.REQUIRE,
            client_verifier=Verifier(),
        ),
    ).run()
    (signed_by_server,), (signed_by_client,) = server.contents, client.contents
    assert signed_by_server.startswith(signed_content(b"", by_server=True))
    assert signed_by_client.startswith(signed_content(b"", by_server=False))


def test_repr_of_a_signer_omits_the_private_key() -> None:
    assert repr(credential().signer) == "PrivateKeySigner()"
