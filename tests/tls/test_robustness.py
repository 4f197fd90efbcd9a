"""Properties for any input: any split gives the same events, any damage an alert."""

import contextlib
import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handshaked.errors import HandshakeError
from handshaked.events import CryptoData, Event
from handshaked.model import ClientAuth, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.client_hello import pull_client_hello
from handshaked.tls.machine import Machine
from handshaked.tls.parameters import Tickets
from handshaked.tls.server import ServerHandshake
from handshaked.tls.tickets import RotatingTicketKeys
from tests.fuzz.mutate import YES, run, scenarios
from tests.tls.pair import NOW, client_parameters, credential, server_parameters

SERVER = server_parameters(
    credential=credential(KeyType.ED25519),
    tickets=Tickets(RotatingTicketKeys([(NOW, bytes(32))])),
    client_auth=ClientAuth.REQUIRE,
    client_verifier=YES,
)
CLIENT = client_parameters(credential=credential(KeyType.ED25519))


@pytest.fixture(scope="module")
def repeatable() -> Iterator[None]:
    """Replace randomness by constants, so that two handshakes can be compared byte by byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda size: b"\x5a" * size)
        key = X25519PrivateKey.from_private_bytes(b"\x5a" * 32)
        patch.setattr(X25519PrivateKey, "generate", classmethod(lambda cls: key))
        yield


def in_pieces(side: Machine, sent: CryptoData, sizes: list[int]) -> list[Event]:
    events: list[Event] = []
    data, sizes = sent.data, list(sizes)
    while data:
        size = sizes.pop() if sizes else len(data)
        events += side.receive(sent.level, data[:size], NOW)
        data = data[size:]
    return events


def handshake(sizes: list[int]) -> tuple[list[Event], list[Event]]:
    """Return all events of client and server that receive messages in pieces of these sizes."""
    client, server = ClientHandshake(CLIENT), ServerHandshake()
    client_events, server_events = client.start(NOW), []
    seen = 0
    for each in client_events:
        if isinstance(each, CryptoData):
            server_events += in_pieces(server, each, sizes)
    server_events += server.proceed(SERVER, NOW)
    while seen < len(server_events):
        event = server_events[seen]
        seen += 1
        if isinstance(event, CryptoData):
            for answer in in_pieces(client, event, sizes):
                client_events.append(answer)
                if isinstance(answer, CryptoData):
                    server_events += in_pieces(server, answer, sizes)
    return client_events, server_events


@pytest.mark.usefixtures("repeatable")
@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 400), max_size=30))
def test_any_split_gives_the_same_events(sizes: list[int]) -> None:
    assert handshake(sizes) == handshake([])


@pytest.mark.usefixtures("repeatable")
def test_handshake_byte_by_byte_gives_the_same_events() -> None:
    client, server = handshake([1] * 5000)
    assert (client, server) == handshake([])
    assert len(client) == 9
    assert len(server) == 8


@pytest.mark.fuzz
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_handshakes_never_complete(count: int) -> None:
    endings = run(count, 0, scenarios())
    assert endings.total() == count
    assert endings["PeerError decode_error"] > count / 10
    assert endings["PeerError decrypt_error"] > count / 20


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=600), st.sampled_from(list(Level)))
def test_server_answers_any_bytes_with_an_alert_at_most(data: bytes, level: Level) -> None:
    server = ServerHandshake()
    events = None
    with contextlib.suppress(HandshakeError):
        events = server.receive(level, data, NOW)
    assert events in (None, [])


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=300))
def test_any_client_hello_body_is_parsed_or_refused(body: bytes) -> None:
    message = b"\x01" + len(body).to_bytes(3) + body
    with pytest.raises(HandshakeError):
        pull_client_hello(message)


def test_many_small_pieces_of_a_large_message_take_linear_time() -> None:
    server = ServerHandshake()
    message = b"\x01" + (60_000).to_bytes(3) + bytes(59_999)
    for at in range(0, len(message), 64):
        assert server.receive(Level.INITIAL, message[at : at + 64], NOW) == []
