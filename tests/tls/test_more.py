"""OCSP stapling, certificate compression, exporter, key log."""

import dataclasses
import zlib

import pytest

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import CryptoData
from handshaked.model import Level
from handshaked.tls import compression
from handshaked.tls.client import ClientHandshake
from handshaked.tls.client_hello import pull_client_hello
from handshaked.tls.codepoints import CertificateCompression, ExtensionType
from handshaked.tls.extensions import push_ocsp_response
from handshaked.tls.parameters import Credential
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, pair, server_parameters
from tests.tls.test_client_hello import hello


def flight_size(done: object) -> int:
    return sum(len(each.data) for each in done.server_events if isinstance(each, CryptoData))


def big() -> Credential:
    base = credential()
    return Credential(base.chain * 4, base.signer, base.key_type)


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_certificate_compression(algorithm: CertificateCompression) -> None:
    chain = big()
    done = pair(client_parameters(compressions=(algorithm,)), server_parameters(credential=chain)).run()
    plain = pair(client_parameters(compressions=()), server_parameters(credential=chain)).run()
    assert flight_size(done) < flight_size(plain) - 500
    assert done.completed[0].peer_certificates == plain.completed[0].peer_certificates == chain.chain


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_length_that_lies(algorithm: CertificateCompression, wrong: int) -> None:
    body = bytes(1000)
    packed = compression.compress(algorithm, body)
    assert compression.decompress(algorithm, 1000, packed) == body
    with pytest.raises(PeerError) as caught:
        compression.decompress(algorithm, 1000 + wrong, packed)
    assert caught.value.alert is Alert.BAD_CERTIFICATE


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_a_bomb(algorithm: CertificateCompression) -> None:
    packed = compression.compress(algorithm, bytes(10_000_000))
    for length in (1000, 65536, 10_000_000):
        with pytest.raises(PeerError) as caught:
            compression.decompress(algorithm, length, packed)
        assert caught.value.alert is Alert.BAD_CERTIFICATE


@pytest.mark.parametrize("algorithm", compression.AVAILABLE)
def test_what_does_not_decompress(algorithm: CertificateCompression) -> None:
    for packed in (b"", b"abc", compression.compress(algorithm, bytes(100))[:-3]):
        with pytest.raises(PeerError) as caught:
            compression.decompress(algorithm, 100, packed)
        assert caught.value.alert is Alert.BAD_CERTIFICATE


def test_bytes_behind_a_compressed_certificate() -> None:
    with pytest.raises(PeerError):
        compression.decompress(CertificateCompression.ZLIB, 3, zlib.compress(b"abc") + b"x")


def test_exporter() -> None:
    done = pair().run()
    keys = {
        (side, label, context): getattr(done, side).export(label, context, 64)
        for side in ("client", "server")
        for label in (b"EXPORTER-a", b"EXPORTER-b")
        for context in (b"", b"context")
    }
    assert len(set(keys.values())) == 4
    assert all(keys["server", label, context] == key for (_, label, context), key in keys.items())


def test_no_exporter_before_the_end() -> None:
    done = pair()
    with pytest.raises(LocalError):
        done.client.export(b"EXPORTER-a", b"", 32)
    hello = done.client.start(NOW)
    done.server.receive(Level.INITIAL, hello[0].data, NOW)
    done.server.proceed(done.parameters, NOW)
    with pytest.raises(LocalError):
        done.server.export(b"EXPORTER-a", b"", 32)


def test_key_log() -> None:
    client_lines: list[str] = []
    server_lines: list[str] = []
    client, server = client_parameters(keylog=client_lines.append), server_parameters(keylog=server_lines.append)
    done = pair(client, server).run()
    assert sorted(client_lines) == sorted(server_lines)
    assert {line.split()[0] for line in client_lines} == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    }
    logged = dict(line.split()[::2] for line in client_lines)
    assert logged["CLIENT_TRAFFIC_SECRET_0"] == done.secrets()[Level.APPLICATION, "up"].hex()
    assert logged["SERVER_HANDSHAKE_TRAFFIC_SECRET"] == done.secrets()[Level.HANDSHAKE, "down"].hex()


STAPLED = dataclasses.replace(credential(), ocsp_response=b"an OCSP response")


@pytest.mark.parametrize("asked", [True, False])
def test_a_stapled_response_is_for_those_who_ask(asked: bool) -> None:
    message = hello(client_parameters(compressions=()))
    if asked:
        message.put(ExtensionType.STATUS_REQUEST, b"\x01\0\0\0\0")
    server = ServerHandshake()
    server.receive(Level.INITIAL, message.encode(), NOW)
    flight = data(server.proceed(server_parameters(credential=STAPLED), NOW), Level.HANDSHAKE)
    assert (push_ocsp_response(b"an OCSP response") in flight) is asked


def test_a_status_request_of_another_type() -> None:
    message = hello().put(ExtensionType.STATUS_REQUEST, b"\x02whatever")
    server = ServerHandshake()
    server.receive(Level.INITIAL, message.encode(), NOW)
    assert kinds(server.proceed(server_parameters(credential=STAPLED), NOW))[-1] == "secret application send"


def test_an_ocsp_response_as_it_is_encoded() -> None:
    assert push_ocsp_response(b"response") == b"\0\x05\0\x0c\x01\0\0\x08response"


def test_a_client_does_not_ask_for_a_stapled_response() -> None:
    sent = pull_client_hello(data(ClientHandshake(client_parameters()).start(NOW)))
    assert not sent.status_request
