"""Our client against aioquic's server and the other way round, in memory."""

from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer
from cryptography import x509

from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Group, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.server import ServerHandshake
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, server_parameters

EPOCHS = {Level.INITIAL: tls.Epoch.INITIAL, Level.HANDSHAKE: tls.Epoch.HANDSHAKE, Level.APPLICATION: tls.Epoch.ONE_RTT}


class Foreign:
    """An aioquic.tls context with its secrets gathered."""

    def __init__(self, *, is_client: bool, key_type: KeyType = KeyType.ECDSA_P256) -> None:
        self.secrets: dict[tuple[tls.Epoch, tls.Direction], bytes] = {}
        self.context = tls.Context(is_client=is_client, alpn_protocols=["h3"], verify_mode=0)
        self.context.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"foreign")]
        if is_client:
            self.context.server_name = "a.test"
        else:
            ours = credential(key_type)
            self.context.certificate = x509.load_der_x509_certificate(ours.chain[0])
            self.context.certificate_private_key = ours.private_key
        self.context.update_traffic_key_cb = self._take

    def _take(self, direction: tls.Direction, epoch: tls.Epoch, suite: Any, secret: bytes) -> None:
        self.secrets[epoch, direction] = secret

    def receive(self, received: bytes = b"") -> list[tuple[Level, bytes]]:
        buffers = {epoch: Buffer(capacity=16384) for epoch in EPOCHS.values()}
        self.context.handle_message(received, buffers)
        return [(level, buffers[epoch].data) for level, epoch in EPOCHS.items() if buffers[epoch].data]


def agree(foreign: Foreign, events: list[Any]) -> None:
    ours = {
        (each.level, each.direction is Direction.SEND): each.secret
        for each in events
        if isinstance(each, TrafficSecret)
    }
    epochs = {epoch: level for level, epoch in EPOCHS.items()}
    theirs = {
        (epochs[epoch], direction is tls.Direction.DECRYPT): secret
        for (epoch, direction), secret in foreign.secrets.items()
    }
    assert ours == theirs
    assert len(ours) == 4


@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P256, KeyType.RSA, KeyType.ED25519])
@pytest.mark.parametrize("suite", [CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256])
def test_their_client(key_type: KeyType, suite: CipherSuite) -> None:
    foreign, server = Foreign(is_client=True), ServerHandshake()
    ((level, hello),) = foreign.receive()
    assert server.receive(level, hello, NOW) == []
    assert server.client_hello is not None
    assert server.client_hello.transport_parameters == b"foreign"
    events = server.proceed(server_parameters(credential=credential(key_type), cipher_suites=(suite,)), NOW)
    for level, finished in foreign.receive(data(events)):
        events += server.receive(level, finished, NOW)
    assert kinds(events)[-1] == "HandshakeComplete"
    agree(foreign, events)


@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P256, KeyType.RSA, KeyType.ED25519])
@pytest.mark.parametrize("group", [Group.X25519, Group.SECP256R1])
def test_their_server(key_type: KeyType, group: Group) -> None:
    foreign = Foreign(is_client=False, key_type=key_type)
    client = ClientHandshake(client_parameters(groups=(group,), key_shares=(group,)))
    events = client.start(NOW)
    for level, flight in foreign.receive(data(events)):
        events += client.receive(level, flight, NOW)
    foreign.receive(data(events, Level.HANDSHAKE))
    assert kinds(events)[-1] == "HandshakeComplete"
    agree(foreign, events)
