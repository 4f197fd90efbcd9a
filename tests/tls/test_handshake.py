"""Complete handshakes of our client with our server."""

import pytest

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.model import CipherSuite, Group, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, pair, server_parameters

SERVER_ORDER = [
    "crypto initial",
    "secret handshake send",
    "secret handshake receive",
    "crypto handshake",
    "secret application send",
    "secret application receive",
    "HandshakeComplete",
]
CLIENT_ORDER = [
    "crypto initial",
    "secret handshake receive",
    "secret handshake send",
    "PeerTransportParameters",
    "secret application receive",
    "secret application send",
    "crypto handshake",
    "HandshakeComplete",
]


def test_events_come_in_the_documented_order() -> None:
    done = pair().run()
    assert kinds(done.server_events) == SERVER_ORDER
    assert kinds(done.client_events) == CLIENT_ORDER
    assert len(done.secrets()) == 4


def test_both_sides_agree() -> None:
    done = pair().run()
    client, server = done.completed
    assert client.alpn == server.alpn == b"h3"
    assert client.server_name == server.server_name == "a.test"
    assert client.cipher_suite is server.cipher_suite is CipherSuite.AES_128_GCM_SHA256
    assert client.peer_certificates == credential().chain
    assert not client.resumed
    assert done.client_received.transport_parameters == b"server-tp"


def test_server_waits_for_proceed() -> None:
    client, server = ClientHandshake(client_parameters()), ServerHandshake()
    hello = data(client.start(NOW))
    assert server.receive(Level.INITIAL, hello, NOW) == []
    assert server.client_hello is not None
    assert server.client_hello.alpns == (b"h3", b"h2")
    assert server.client_hello.server_name == "a.test"
    assert server.client_hello.transport_parameters == b"client-tp"
    assert 0x0403 in server.client_hello.signature_schemes


@pytest.mark.parametrize("key_type", KeyType)
def test_handshake_with_every_key_type(key_type: KeyType) -> None:
    done = pair(server=server_parameters(credential=credential(key_type))).run()
    assert len(done.secrets()) == 4


@pytest.mark.parametrize("suite", CipherSuite)
def test_handshake_with_every_cipher_suite(suite: CipherSuite) -> None:
    done = pair(client_parameters(cipher_suites=(suite,)), server_parameters(cipher_suites=tuple(CipherSuite))).run()
    assert done.completed[0].cipher_suite is suite
    assert {len(each) for each in done.secrets().values()} == {48 if suite.name.endswith("384") else 32}


def test_server_prefers_its_own_cipher_suite() -> None:
    server = server_parameters(cipher_suites=(CipherSuite.CHACHA20_POLY1305_SHA256, CipherSuite.AES_128_GCM_SHA256))
    assert pair(server=server).run().completed[1].cipher_suite is CipherSuite.CHACHA20_POLY1305_SHA256


@pytest.mark.parametrize("group", Group)
def test_handshake_with_every_group(group: Group) -> None:
    done = pair(client_parameters(groups=(group,), key_shares=(group,)), server_parameters(groups=(group,))).run()
    assert len(done.secrets()) == 4
    assert done.flights == 2


@pytest.mark.parametrize("group", [each for each in Group if each is not Group.X25519])
@pytest.mark.parametrize("suite", [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384])
def test_handshake_with_hello_retry_request(group: Group, suite: CipherSuite) -> None:
    client = client_parameters(groups=tuple(Group))
    done = pair(client, server_parameters(groups=(group,), cipher_suites=(suite,))).run()
    assert done.flights == 3
    assert kinds(done.server_events) == ["crypto initial", *SERVER_ORDER]
    assert kinds(done.client_events) == ["crypto initial", *CLIENT_ORDER]
    assert len(done.secrets()) == 4


def test_server_prefers_groups_with_a_key_share_to_a_retry() -> None:
    server = server_parameters(groups=(Group.SECP384R1, Group.SECP256R1, Group.X25519))
    client = client_parameters(key_shares=(Group.X25519, Group.SECP256R1))
    assert pair(client, server).run().flights == 2


def test_no_common_cipher_suite_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(cipher_suites=(CipherSuite.AES_128_CCM_SHA256,))).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_no_common_group_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(groups=(Group.X25519,)), server_parameters(groups=(Group.SECP256R1,))).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_quic_requires_a_protocol() -> None:
    with pytest.raises(PeerError) as caught:
        pair(server=server_parameters(alpn=None)).run()
    assert caught.value.alert is Alert.NO_APPLICATION_PROTOCOL


def test_selecting_a_protocol_that_was_not_offered_is_a_local_error() -> None:
    with pytest.raises(LocalError):
        pair(server=server_parameters(alpn=b"xyz")).run()


def test_proceed_in_another_state_is_a_local_error() -> None:
    with pytest.raises(LocalError):
        ServerHandshake().proceed(server_parameters(), NOW)


def test_failed_handshake_stays_failed() -> None:
    server = ServerHandshake()
    with pytest.raises(PeerError):
        server.receive(Level.INITIAL, b"\x02\0\0\0", NOW)
    with pytest.raises(LocalError):
        server.receive(Level.INITIAL, data(ClientHandshake(client_parameters()).start(NOW)), NOW)
    with pytest.raises(LocalError):
        server.proceed(server_parameters(), NOW)


def test_bytes_after_a_client_hello_are_refused() -> None:
    hello = data(ClientHandshake(client_parameters()).start(NOW))
    with pytest.raises(PeerError) as caught:
        ServerHandshake().receive(Level.INITIAL, hello + b"\x01", NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


def test_flight_at_the_wrong_level_is_refused() -> None:
    client, server = ClientHandshake(client_parameters()), ServerHandshake()
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    flight = data(server.proceed(server_parameters(), NOW))
    with pytest.raises(PeerError) as caught:
        client.receive(Level.INITIAL, flight, NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


def test_reprs_omit_secrets() -> None:
    done = pair().run()
    shown = repr(done.client_events) + repr(done.server_events) + repr(done.client) + repr(done.server)
    for secret in done.secrets().values():
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
