"""Our client with aioquic's server, and vice versa, in memory."""

import datetime
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer
from cryptography import x509

from handshaked.events import HandshakeComplete, SessionTicket, TrafficSecret
from handshaked.model import CipherSuite, Direction, Group, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import Tickets
from handshaked.tls.server import ServerHandshake
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, private_key, server_parameters

TICKETS = Tickets(RotatingTicketKeys([(NOW, bytes(32))]))
EPOCHS = {Level.INITIAL: tls.Epoch.INITIAL, Level.HANDSHAKE: tls.Epoch.HANDSHAKE, Level.APPLICATION: tls.Epoch.ONE_RTT}


class Foreign:
    """An aioquic.tls context that collects its secrets."""

    def __init__(self, *, is_client: bool, key_type: KeyType = KeyType.ECDSA_P256) -> None:
        self.secrets: dict[tuple[tls.Epoch, tls.Direction], bytes] = {}
        self.context = tls.Context(is_client=is_client, alpn_protocols=["h3"], verify_mode=0)
        self.context.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"foreign")]
        if is_client:
            self.context.server_name = "a.test"
        else:
            ours = credential(key_type)
            self.context.certificate = x509.load_der_x509_certificate(ours.chain[0])
            self.context.certificate_private_key = private_key(ours)
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
def test_aioquic_client_with_our_server(key_type: KeyType, suite: CipherSuite) -> None:
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
def test_our_client_with_aioquic_server(key_type: KeyType, group: Group) -> None:
    foreign = Foreign(is_client=False, key_type=key_type)
    client = ClientHandshake(client_parameters(groups=(group,), key_shares=(group,)))
    events = client.start(NOW)
    for level, flight in foreign.receive(data(events)):
        events += client.receive(level, flight, NOW)
    foreign.receive(data(events, Level.HANDSHAKE))
    assert kinds(events)[-1] == "HandshakeComplete"
    agree(foreign, events)


@pytest.fixture
def at_our_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set aioquic's clock to that of the tests."""
    monkeypatch.setattr(tls, "utcnow", lambda: datetime.datetime.fromtimestamp(NOW, datetime.UTC))


@pytest.mark.usefixtures("at_our_time")
def test_aioquic_client_resumes_with_our_ticket() -> None:
    tickets: list[tls.SessionTicket] = []
    parameters = server_parameters(tickets=TICKETS)
    resumed = []
    for _ in range(2):
        foreign, server = Foreign(is_client=True), ServerHandshake()
        foreign.context.new_session_ticket_cb = tickets.append
        foreign.context.session_ticket = tickets[-1] if tickets else None
        ((level, hello),) = foreign.receive()
        server.receive(level, hello, NOW)
        events = server.proceed(parameters, NOW)
        for level, finished in foreign.receive(data(events)):
            events += server.receive(level, finished, NOW)
        foreign.receive(data(events, Level.APPLICATION))
        resumed.append(events[-1].resumed)
        assert foreign.context.session_resumed is resumed[-1]
        agree(foreign, events)
    assert resumed == [False, True]


@pytest.mark.usefixtures("at_our_time")
@pytest.mark.parametrize("early", [False, True])
def test_our_client_resumes_with_aioquic_ticket(early: bool) -> None:
    kept: dict[bytes, tls.SessionTicket] = {}
    state = None
    resumed = []
    for _ in range(2):
        foreign = Foreign(is_client=False)
        foreign.context._max_early_data = 0xFFFFFFFF if early else None  # noqa: SLF001  # it takes it when it is made
        foreign.context.new_session_ticket_cb = lambda ticket: kept.update({ticket.ticket: ticket})
        foreign.context.get_session_ticket_cb = kept.get
        client = ClientHandshake(client_parameters(session_ticket=state, early_data=early))
        events = client.start(NOW)
        for level, flight in foreign.receive(data(events)):
            events += client.receive(level, flight, NOW)
        for level, ticket in foreign.receive(data(events, Level.HANDSHAKE)):
            events += client.receive(level, ticket, NOW)
        resumed += [each.resumed for each in events if isinstance(each, HandshakeComplete)]
        state = next((each.state for each in events if isinstance(each, SessionTicket)), None)
    assert resumed == [False, True]
    assert client.early_data is (True if early else None)
