"""The transition tables: complete, reachable, and obeyed by the engine."""

from collections.abc import Callable

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import ClientAuth, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codepoints import HandshakeType
from handshaked.tls.machine import Machine
from handshaked.tls.server import ServerHandshake
from handshaked.tls.state import (
    CLIENT_QUIC,
    CLIENT_TCP,
    SERVER_QUIC,
    SERVER_TCP,
    ClientState,
    ServerState,
    State,
    Transitions,
)
from tests.fuzz.mutate import YES
from tests.tls.pair import NOW, client_parameters, credential, data, server_parameters

TABLES = {"server quic": SERVER_QUIC, "server tcp": SERVER_TCP, "client quic": CLIENT_QUIC, "client tcp": CLIENT_TCP}
ASKING = server_parameters(client_auth=ClientAuth.REQUIRE, client_verifier=YES)


def reachable(table: Transitions, start: State) -> set[State]:
    seen = {start}
    waiting = [start]
    while waiting:
        for following in table.get(waiting.pop(), {}).values():
            waiting += [each for each in following if each not in seen]
            seen.update(following)
    return seen


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_state_but_failed_is_reachable(table: Transitions) -> None:
    server = ServerState.START in table
    states: set[State] = set(ServerState) if server else set(ClientState)
    start = ServerState.START if server else ClientState.START
    missing = states - reachable(table, start)
    assert missing == {ServerState.FAILED if server else ClientState.FAILED}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_failed_is_final(table: Transitions) -> None:
    assert not table[ServerState.FAILED if ServerState.START in table else ClientState.FAILED]


@pytest.mark.parametrize("table", [SERVER_QUIC, CLIENT_QUIC], ids=["server", "client"])
def test_quic_has_no_key_update_and_no_end_of_early_data(table: Transitions) -> None:
    known = {kind for row in table.values() for kind in row}
    assert not known & {HandshakeType.KEY_UPDATE, HandshakeType.END_OF_EARLY_DATA}


def fresh_server() -> tuple[Machine, Level]:
    return ServerHandshake(), Level.INITIAL


def waiting_server() -> tuple[Machine, Level]:
    server = ServerHandshake()
    server.receive(Level.INITIAL, data(ClientHandshake(client_parameters()).start(NOW)), NOW)
    return server, Level.INITIAL


def server_after_flight() -> tuple[Machine, Level]:
    server = waiting_server()[0]
    assert isinstance(server, ServerHandshake)
    server.proceed(server_parameters(), NOW)
    return server, Level.HANDSHAKE


def asking_server() -> tuple[Machine, Level]:
    server = waiting_server()[0]
    assert isinstance(server, ServerHandshake)
    server.proceed(ASKING, NOW)
    return server, Level.HANDSHAKE


def server_with_certificate() -> tuple[Machine, Level]:
    client, server = (
        ClientHandshake(client_parameters(credential=credential(name="c"), compressions=())),
        ServerHandshake(),
    )
    server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
    events = server.proceed(ASKING, NOW)
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    flight = data(client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW))
    server.receive(Level.HANDSHAKE, flight[: 4 + int.from_bytes(flight[1:4])], NOW)
    return server, Level.HANDSHAKE


def fresh_client() -> tuple[Machine, Level]:
    client = ClientHandshake(client_parameters())
    client.start(NOW)
    return client, Level.INITIAL


def client_after(messages: int) -> Callable[[], tuple[Machine, Level]]:
    """Return a client that has received the ServerHello and so many messages after it."""

    def make() -> tuple[Machine, Level]:
        client, server = ClientHandshake(client_parameters(compressions=())), ServerHandshake()
        server.receive(Level.INITIAL, data(client.start(NOW)), NOW)
        events = server.proceed(server_parameters(), NOW)
        client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
        flight = data(events, Level.HANDSHAKE)
        for _ in range(messages):
            end = 4 + int.from_bytes(flight[1:4])
            client.receive(Level.HANDSHAKE, flight[:end], NOW)
            flight = flight[end:]
        return client, Level.HANDSHAKE if messages < 4 else Level.APPLICATION

    return make


PLACES: dict[str, tuple[Callable[[], tuple[Machine, Level]], State]] = {
    "server start": (fresh_server, ServerState.START),
    "server waits for the choice": (waiting_server, ServerState.RECVD_CH),
    "server after its flight": (server_after_flight, ServerState.WAIT_FINISHED),
    "server asking for a certificate": (asking_server, ServerState.WAIT_CERT),
    "server with a certificate": (server_with_certificate, ServerState.WAIT_CV),
    "client after its hello": (fresh_client, ClientState.WAIT_SH),
    "client after ServerHello": (client_after(0), ClientState.WAIT_EE),
    "client after EncryptedExtensions": (client_after(1), ClientState.WAIT_CERT_CR),
    "client after Certificate": (client_after(2), ClientState.WAIT_CV),
    "client after CertificateVerify": (client_after(3), ClientState.WAIT_FINISHED),
    "client at the end": (client_after(4), ClientState.CONNECTED),
}


@pytest.mark.parametrize("place", PLACES)
def test_messages_not_in_the_table_are_unexpected(place: str) -> None:
    make, state = PLACES[place]
    table = SERVER_QUIC if isinstance(state, ServerState) else CLIENT_QUIC
    for kind in {0, 99, *HandshakeType} - set(table[state]):
        machine, level = make()
        with pytest.raises(PeerError) as caught:
            machine.receive(level, bytes([kind]), NOW)
        assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("place", PLACES)
def test_messages_in_the_table_are_parsed(place: str) -> None:
    make, state = PLACES[place]
    table = SERVER_QUIC if isinstance(state, ServerState) else CLIENT_QUIC
    for kind in table[state]:
        if kind < 0:
            continue
        machine, level = make()
        # An empty message is malformed, whatever its type.
        with pytest.raises(PeerError) as caught:
            machine.receive(level, bytes([kind, 0, 0, 0]), NOW)
        assert caught.value.alert is Alert.DECODE_ERROR


@pytest.mark.parametrize("place", PLACES)
def test_messages_at_other_levels_are_unexpected(place: str) -> None:
    make, _ = PLACES[place]
    for level in Level:
        machine, right = make()
        if level is not right:
            with pytest.raises(PeerError) as caught:
                machine.receive(level, b"\x01", NOW)
            assert caught.value.alert is Alert.UNEXPECTED_MESSAGE
