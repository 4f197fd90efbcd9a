"""Certificate compression (RFC 8879): what is sent is smaller, and decompression is bounded."""

import zlib

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.events import CryptoData
from handshaked.tls import compression
from handshaked.tls.codepoints import CertificateCompression
from handshaked.tls.parameters import Credential
from tests.tls.pair import client_parameters, credential, pair, server_parameters


def flight_size(done: object) -> int:
    return sum(len(each.data) for each in done.server_events if isinstance(each, CryptoData))


def big() -> Credential:
    base = credential()
    return Credential(base.chain * 4, base.signer, base.key_type)


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_compressed_certificate_is_smaller_and_the_same(algorithm: CertificateCompression) -> None:
    chain = big()
    done = pair(client_parameters(compressions=(algorithm,)), server_parameters(credential=chain)).run()
    plain = pair(client_parameters(compressions=()), server_parameters(credential=chain)).run()
    assert flight_size(done) < flight_size(plain) - 500
    assert done.completed[0].peer_certificates == plain.completed[0].peer_certificates == chain.chain


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_wrong_length_is_refused(algorithm: CertificateCompression, wrong: int) -> None:
    body = bytes(1000)
    packed = compression.compress(algorithm, body)
    assert compression.decompress(algorithm, 1000, packed) == body
    with pytest.raises(PeerError) as caught:
        compression.decompress(algorithm, 1000 + wrong, packed)
    assert caught.value.alert is Alert.BAD_CERTIFICATE


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_decompression_is_bounded(algorithm: CertificateCompression) -> None:
    packed = compression.compress(algorithm, bytes(10_000_000))
    for length in (1000, 65536, 10_000_000):
        with pytest.raises(PeerError) as caught:
            compression.decompress(algorithm, length, packed)
        assert caught.value.alert is Alert.BAD_CERTIFICATE


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_malformed_data_is_refused(algorithm: CertificateCompression) -> None:
    for packed in (b"", b"abc", compression.compress(algorithm, bytes(100))[:-3]):
        with pytest.raises(PeerError) as caught:
            compression.decompress(algorithm, 100, packed)
        assert caught.value.alert is Alert.BAD_CERTIFICATE


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(PeerError):
        compression.decompress(CertificateCompression.ZLIB, 3, zlib.compress(b"abc") + b"x")
