"""A handshake joined with the record layer: two streams against each other, with a scripted handshake between them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError
from handshaked.events import CryptoData, Event, HandshakeComplete, HandshakeFailed, TrafficSecret
from handshaked.model import CipherSuite, Direction, Level
from handshaked.tls.parameters import ClientHello, ServerParameters
from handshaked.tls.record import ContentType, push_alert
from handshaked.tls.stream import (
    MAX_KEY_UPDATES,
    MAX_WARNINGS,
    ApplicationData,
    ClientStream,
    PeerClosed,
    ServerStream,
)

SUITE = CipherSuite.AES_128_GCM_SHA256
COMPLETE = HandshakeComplete(None, None, SUITE, resumed=False)
HELLO = ClientHello(None, (), (), None)
PARAMETERS = ServerParameters(None, None, None)
CCS = bytes.fromhex("140303000101")


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3) + body


def hello(kind: int, session_id: bytes) -> bytes:
    return message(kind, bytes(34) + bytes([len(session_id)]) + session_id + bytes(8))


def secret(level: Level, direction: Direction, sender: str) -> TrafficSecret:
    return TrafficSecret(level, direction, SUITE, f"{level.name} {sender}".ljust(32).encode())


@dataclass
class Script:
    """Plays one side of a handshake in the order that events.py fixes; messages are recognised by their first byte."""

    session_id: bytes = bytes(32)
    fault: HandshakeError | None = None
    client_hello: ClientHello | None = None
    early_data: bool | None = None
    peer_record_size_limit: int | None = None

    def start(self, now: float) -> list[Event]:
        return [CryptoData(Level.INITIAL, hello(1, self.session_id))]

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        if self.fault:
            raise self.fault
        return [
            CryptoData(Level.INITIAL, hello(2, self.session_id)),
            secret(Level.HANDSHAKE, Direction.SEND, "server"),
            secret(Level.HANDSHAKE, Direction.RECEIVE, "client"),
            CryptoData(Level.HANDSHAKE, message(8, b"") + message(20, b"server")),
            secret(Level.APPLICATION, Direction.SEND, "server"),
        ]

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        if data[0] == 1:
            self.client_hello = HELLO
            return []
        if data[0] == 2:
            return [
                secret(Level.HANDSHAKE, Direction.RECEIVE, "server"),
                secret(Level.HANDSHAKE, Direction.SEND, "client"),
            ]
        if data[0] == 8:
            return [
                secret(Level.APPLICATION, Direction.RECEIVE, "server"),
                secret(Level.APPLICATION, Direction.SEND, "client"),
                CryptoData(Level.HANDSHAKE, message(20, b"client")),
                COMPLETE,
            ]
        if data[0] == 20:
            return [
                secret(Level.APPLICATION, Direction.RECEIVE, "client"),
                CryptoData(Level.APPLICATION, message(4, b"ticket")),
                COMPLETE,
            ]
        if data[0] == 4:
            return []
        raise PeerError(Alert.UNEXPECTED_MESSAGE, f"message {data[0]}")


def connected(session_id: bytes = b"") -> tuple[ClientStream, ServerStream]:
    """Two streams with the handshake behind them."""
    client, server = ClientStream(Script(session_id)), ServerStream(Script(session_id))
    assert client.start(0) == []
    assert server.receive(client.pull_outgoing(), 0) == []
    assert server.client_hello is HELLO
    assert server.proceed(PARAMETERS, 0) == []
    assert client.receive(server.pull_outgoing(), 0) == [COMPLETE]
    assert server.receive(client.pull_outgoing(), 0) == [COMPLETE]
    assert client.receive(server.pull_outgoing(), 0) == []
    return client, server


def inject(sender: ClientStream | ServerStream, kind: ContentType, data: bytes) -> bytes:
    """A record such as no well-behaved stream would send."""
    return sender.records.protect(Level.APPLICATION, kind, data)


class TestHandshake:
    def test_data_both_ways_and_the_end(self):
        client, server = connected()
        client.send(b"ping")
        assert server.receive(client.pull_outgoing(), 0) == [ApplicationData(Level.APPLICATION, b"ping")]
        server.send(b"pong")
        server.close()
        assert client.receive(server.pull_outgoing(), 0) == [
            ApplicationData(Level.APPLICATION, b"pong"),
            PeerClosed(),
        ]
        assert client.needed() == 0
        assert client.receive(b"junk behind the end", 0) == []
        client.send(b"half-closed streams may go on sending")
        assert len(server.receive(client.pull_outgoing(), 0)) == 1
        with pytest.raises(LocalError):
            server.send(b"x")

    @given(cut=st.integers(1, 100))
    def test_any_split(self, cut):
        client, server = ClientStream(Script()), ServerStream(Script())
        client.start(0)

        def feed(stream, data):
            return [e for at in range(0, len(data), cut) for e in stream.receive(data[at : at + cut], 0)]

        assert feed(server, client.pull_outgoing()) == []
        server.proceed(PARAMETERS, 0)
        assert feed(client, server.pull_outgoing()) == [COMPLETE]
        assert feed(server, client.pull_outgoing()) == [COMPLETE]

    @pytest.mark.parametrize("session_id", [b"", bytes(32)])
    def test_change_cipher_spec_where_the_session_id_asks_for_it(self, session_id):
        client, server = ClientStream(Script(session_id)), ServerStream(Script(session_id))
        client.start(0)
        first = client.pull_outgoing()
        server.receive(first, 0)
        server.proceed(PARAMETERS, 0)
        flight = server.pull_outgoing()
        client.receive(flight, 0)
        assert CCS not in first
        assert flight.count(CCS) == bool(session_id)
        assert client.pull_outgoing().startswith(CCS) == bool(session_id)

    def test_the_server_reads_nothing_while_it_waits(self):
        client, server = ClientStream(Script()), ServerStream(Script())
        client.start(0)
        server.receive(client.pull_outgoing() + CCS + b"\xff", 0)
        assert (server.needed(), server.pull_outgoing()) == (0, b"")
        assert server.proceed(PARAMETERS, 0) == []  # and takes the change_cipher_spec then
        assert server.needed() == 4

    def test_nothing_behind_finished_is_read(self):
        client, server = ClientStream(Script()), ServerStream(Script())
        client.start(0)
        server.receive(client.pull_outgoing(), 0)
        server.proceed(PARAMETERS, 0)
        client.receive(server.pull_outgoing(), 0)
        client.send(b"early bird")
        wire, at, events = client.pull_outgoing(), 0, []
        while not events:
            needed = server.needed()
            events = server.receive(wire[at : at + needed], 0)
            at += needed
        assert (events, server.records.buffered) == ([COMPLETE], 0)
        assert server.records.state(Direction.RECEIVE).sequence == 0
        assert server.records.state(Direction.SEND).sequence == 1  # the ticket
        assert server.receive(wire[at:], 0) == [ApplicationData(Level.APPLICATION, b"early bird")]

    def test_no_data_before_the_handshake_is_complete(self):
        client = ClientStream(Script())
        client.start(0)
        with pytest.raises(LocalError):
            client.send(b"x")


class TestFaults:
    def test_a_fault_of_the_handshake_becomes_an_alert(self):
        server = ServerStream(Script(fault=HandshakeError(Alert.UNRECOGNIZED_NAME, "nobody has that name")))
        client = ClientStream(Script())
        client.start(0)
        server.receive(client.pull_outgoing(), 0)
        [failed] = server.proceed(PARAMETERS, 0)
        assert failed == HandshakeFailed(Alert.UNRECOGNIZED_NAME, "nobody has that name", 13)
        assert server.pull_outgoing() == bytes.fromhex("15030300020270")
        assert (server.needed(), server.receive(b"more", 0)) == (0, [])

    def test_an_alert_goes_out_under_the_highest_keys(self):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.CHANGE_CIPHER_SPEC, b"\1"), 0)
        assert failed.alert is Alert.UNEXPECTED_MESSAGE
        [told] = client.receive(server.pull_outgoing(), 0)
        assert told.alert is Alert.UNEXPECTED_MESSAGE
        assert "peer sent" in told.reason
        assert client.pull_outgoing() == b""

    @pytest.mark.parametrize(("description", "alert"), [(48, Alert.UNKNOWN_CA), (0xEE, Alert.HANDSHAKE_FAILURE)])
    @pytest.mark.parametrize("level", [1, 2, 9])
    def test_every_error_alert_ends_it_whatever_its_level(self, description, alert, level):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.ALERT, bytes([level, description])), 0)
        assert failed.alert is alert
        assert server.pull_outgoing() == b""

    def test_close_notify_within_the_handshake_is_a_failure(self):
        server = ServerStream(Script())
        [failed] = server.receive(b"\x15\3\3\0\2" + push_alert(Alert.CLOSE_NOTIFY), 0)
        assert failed.alert is Alert.CLOSE_NOTIFY

    def test_user_canceled_is_ignored_but_not_for_ever(self):
        client, server = connected()
        canceled = [inject(client, ContentType.ALERT, push_alert(Alert.USER_CANCELED)) for _ in range(MAX_WARNINGS)]
        assert server.receive(b"".join(canceled), 0) == []
        [failed] = server.receive(inject(client, ContentType.ALERT, push_alert(Alert.USER_CANCELED)), 0)
        assert failed.alert is Alert.USER_CANCELED

    @given(st.data())
    def test_any_mutation_fails_once_and_never_otherwise(self, data):
        client, server = ClientStream(Script()), ServerStream(Script())
        client.start(0)
        server.receive(client.pull_outgoing(), 0)
        server.proceed(PARAMETERS, 0)
        flight = bytearray(server.pull_outgoing())
        flight[data.draw(st.integers(0, len(flight) - 1))] ^= data.draw(st.integers(1, 255))
        events = client.receive(bytes(flight), 0)
        assert [type(event) for event in events] in ([], [HandshakeComplete], [HandshakeFailed])


class TestKeyUpdate:
    @pytest.mark.parametrize("asked", [0, 1])
    def test_the_peers(self, asked):
        client, server = connected()
        update = inject(client, ContentType.HANDSHAKE, message(24, bytes([asked])))
        client.records.update(Direction.SEND)
        assert server.receive(update, 0) == []
        client.send(b"under the new key")
        server.send(b"answer")
        assert len(server.receive(client.pull_outgoing(), 0)) == 1
        before = client.records.state(Direction.RECEIVE).key
        assert client.receive(server.pull_outgoing(), 0) == [ApplicationData(Level.APPLICATION, b"answer")]
        assert (client.records.state(Direction.RECEIVE).key != before) == asked

    @pytest.mark.parametrize(
        ("wrong", "alert"),
        [
            (message(24, b""), Alert.DECODE_ERROR),
            (message(24, b"\0\0"), Alert.DECODE_ERROR),
            (message(24, b"\2"), Alert.ILLEGAL_PARAMETER),
            (message(24, b"\0") * 2, Alert.UNEXPECTED_MESSAGE),
            (message(24, b"\0") + b"\4", Alert.UNEXPECTED_MESSAGE),
            (message(13, b""), Alert.UNEXPECTED_MESSAGE),
        ],
    )
    def test_wrong_ones(self, wrong, alert):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.HANDSHAKE, wrong), 0)
        assert failed.alert is alert

    def test_fragmented_over_records(self):
        client, server = connected()
        pieces = [inject(client, ContentType.HANDSHAKE, bytes([byte])) for byte in message(24, b"\0")]
        client.records.update(Direction.SEND)
        assert server.receive(b"".join(pieces), 0) == []
        client.send(b"x")
        assert len(server.receive(client.pull_outgoing(), 0)) == 1

    def test_not_for_ever(self):
        client, server = connected()
        for left in range(MAX_KEY_UPDATES, -1, -1):
            events = server.receive(inject(client, ContentType.HANDSHAKE, message(24, b"\0")), 0)
            client.records.update(Direction.SEND)
            assert bool(events) == (left == 0)
