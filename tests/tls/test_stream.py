"""Two streams with each other: handshake and record layer together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, LocalError
from handshaked.events import HandshakeComplete, HandshakeFailed, SessionTicket
from handshaked.model import CipherSuite, ClientAuth, Direction, Group, KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import EarlyData, Tickets
from handshaked.tls.record import ContentType, push_alert
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import (
    MAX_KEY_UPDATES,
    MAX_WARNINGS,
    ApplicationData,
    ClientStream,
    PeerClosed,
    ServerStream,
)
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, client_parameters, credential, server_parameters
from tests.tls.test_resumption import Guard

CCS = bytes.fromhex("140303000101")
TICKETS = Tickets(RotatingTicketKeys([(NOW - 3600, bytes(32))]))


class AcceptsAll:
    """A verifier that accepts every client certificate."""

    trust = b"every"

    def verify(self, chain, now) -> None:
        pass


def new_client(**changes) -> ClientStream:
    parameters = client_parameters(**{"transport_parameters": None, "alpns": (), **changes})
    return ClientStream(ClientHandshake(parameters, quic=False), parameters.record_size_limit)


def new_server() -> ServerStream:
    return ServerStream(ServerHandshake(quic=False))


def answer(**changes):
    return server_parameters(**{"transport_parameters": None, "alpn": None, **changes})


def talk(client: ClientStream, server: ServerStream, **changes) -> tuple[list, list]:
    """Return all events until neither side has anything to send."""
    client_events, server_events = client.start(NOW), []
    while True:
        up = client.pull_outgoing()
        server_events += server.receive(up, NOW)
        if server.client_hello and not any(isinstance(e, HandshakeComplete) for e in server_events):
            server_events += proceed_once(server, changes)
        down = server.pull_outgoing()
        client_events += client.receive(down, NOW)
        if not up and not down:
            return client_events, server_events


def proceed_once(server: ServerStream, changes) -> list:
    return server.proceed(answer(**changes), NOW) if server.waits else []


def connected(client: ClientStream | None = None, **changes) -> tuple[ClientStream, ServerStream]:
    """Return two streams that have completed their handshake."""
    client, server = client or new_client(), new_server()
    for events in talk(client, server, **changes):
        assert any(isinstance(event, HandshakeComplete) for event in events), events
    return client, server


def inject(sender: ClientStream | ServerStream, kind: ContentType, data: bytes) -> bytes:
    """Return a record that no correct stream sends."""
    return sender.records.protect(Level.APPLICATION, kind, data)


def types(events: list) -> list[type]:
    return [type(event) for event in events]


class TestHandshake:
    @pytest.mark.parametrize("suite", list(CipherSuite))
    def test_data_is_exchanged_and_both_sides_close(self, suite):
        client, server = connected(new_client(cipher_suites=(suite,)), cipher_suites=(suite,))
        client.send(b"ping")
        assert server.receive(client.pull_outgoing(), NOW) == [ApplicationData(Level.APPLICATION, b"ping")]
        server.send(b"pong")
        server.close()
        assert client.receive(server.pull_outgoing(), NOW) == [
            ApplicationData(Level.APPLICATION, b"pong"),
            PeerClosed(),
        ]
        assert client.needed() == 0
        assert client.receive(b"junk behind the end", NOW) == []
        client.send(b"half-closed streams may go on sending")
        assert len(server.receive(client.pull_outgoing(), NOW)) == 1
        with pytest.raises(LocalError):
            server.send(b"x")

    @pytest.mark.parametrize("key_type", list(KeyType))
    def test_handshake_with_credentials_on_both_sides(self, key_type):
        held = credential(key_type)
        client, server = new_client(credential=held), new_server()
        requires = {"client_auth": ClientAuth.REQUIRE, "client_verifier": AcceptsAll()}
        for events in talk(client, server, credential=held, **requires):
            (complete,) = (event for event in events if isinstance(event, HandshakeComplete))
            assert complete.peer_certificates == held.chain

    @settings(max_examples=25, deadline=None)
    @given(cut=st.integers(1, 400))
    def test_any_split_gives_the_same_events(self, cut):
        client, server = new_client(), new_server()
        client.start(NOW)

        def feed(stream, data):
            return [e for at in range(0, len(data), cut) for e in stream.receive(data[at : at + cut], NOW)]

        assert feed(server, client.pull_outgoing()) == []
        assert server.proceed(answer(tickets=TICKETS), NOW) == []
        assert types(feed(client, server.pull_outgoing())) == [HandshakeComplete]
        assert types(feed(server, client.pull_outgoing())) == [HandshakeComplete]
        assert types(feed(client, server.pull_outgoing())) == [SessionTicket]

    def test_handshake_with_hello_retry_request(self):
        client = new_client(groups=(Group.X25519, Group.SECP384R1))
        connected(client, groups=(Group.SECP384R1,))

    def test_each_side_sends_one_change_cipher_spec(self):
        client, server = new_client(groups=(Group.X25519, Group.SECP384R1)), new_server()
        client.start(NOW)
        first = client.pull_outgoing()
        server.receive(first, NOW)
        server.proceed(answer(groups=(Group.SECP384R1,)), NOW)
        retry = server.pull_outgoing()
        client.receive(retry, NOW)
        second = client.pull_outgoing()
        server.receive(second, NOW)
        flight = server.pull_outgoing()
        client.receive(flight, NOW)
        last = client.pull_outgoing()
        assert [CCS in each for each in (first, retry, second, flight, last)] == [False, True, True, False, False]
        assert second.startswith(CCS)
        assert types(server.receive(last, NOW)) == [HandshakeComplete]

    def test_the_server_reads_nothing_while_it_waits(self):
        client, server = new_client(), new_server()
        client.start(NOW)
        assert not server.waits
        server.receive(client.pull_outgoing(), NOW)
        assert (server.waits, server.needed(), server.pull_outgoing()) == (True, 0, b"")
        assert server.receive(CCS + b"\x17", NOW) == []
        assert server.proceed(answer(), NOW) == []  # then it accepts the change_cipher_spec
        assert (server.waits, server.needed()) == (False, 4)

    def test_nothing_after_finished_is_read(self):
        client, server = new_client(), new_server()
        client.start(NOW)
        server.receive(client.pull_outgoing(), NOW)
        server.proceed(answer(tickets=TICKETS), NOW)
        client.receive(server.pull_outgoing(), NOW)
        client.send(b"early bird")
        wire, at, events = client.pull_outgoing(), 0, []
        while not events:
            needed = server.needed()
            events = server.receive(wire[at : at + needed], NOW)
            at += needed
        assert (types(events), server.records.buffered) == ([HandshakeComplete], 0)
        assert server.records.state(Direction.RECEIVE).sequence == 0
        assert server.records.state(Direction.SEND).sequence == 1  # the ticket
        assert server.receive(wire[at:], NOW) == [ApplicationData(Level.APPLICATION, b"early bird")]

    def test_data_is_refused_before_the_handshake_is_complete(self):
        client = new_client()
        client.start(NOW)
        with pytest.raises(LocalError):
            client.send(b"x")

    @pytest.mark.parametrize(("limits", "fragments"), [((100, 200), [99, 99, 2]), ((100, None), [99, 99, 2])])
    def test_record_size_limits_are_applied(self, limits, fragments):
        theirs, ours = limits
        client, server = connected(new_client(record_size_limit=theirs), record_size_limit=ours)
        server.send(bytes(200))
        assert [len(e.data) for e in client.receive(server.pull_outgoing(), NOW)] == fragments
        client.send(bytes(200))
        events = server.receive(client.pull_outgoing(), NOW)
        assert [len(e.data) for e in events] == ([199, 1] if ours else [200])


class TestEarlyData:
    def state(self, **changes) -> tuple[bytes, dict]:
        """Return a ticket's state, and the parameters of the server that issued it."""
        how = {"tickets": TICKETS, "early_data": EarlyData(Guard(), max_size=1000), **changes}
        client_events, _ = talk(new_client(), new_server(), **how)
        (ticket,) = (event for event in client_events if isinstance(event, SessionTicket))
        return ticket.state, how

    def flight(self, data: bytes, state: bytes, **changes) -> tuple[ClientStream, ServerStream, list]:
        client, server = new_client(session_ticket=state, early_data=True), new_server()
        client.start(NOW)
        early = client.records.protect(Level.EARLY, ContentType.APPLICATION_DATA, data)
        server.receive(client.pull_outgoing() + early, NOW)
        return client, server, server.proceed(answer(**changes), NOW)

    def test_early_data_is_accepted(self):
        state, how = self.state()
        client, server, events = self.flight(b"0-RTT", state, **how)
        assert events == [ApplicationData(Level.EARLY, b"0-RTT")]
        [complete] = client.receive(server.pull_outgoing(), NOW)
        assert complete.early_data_accepted
        client.send(b"1-RTT")
        events = server.receive(client.pull_outgoing(), NOW)
        assert types(events) == [HandshakeComplete, ApplicationData]

    def test_early_data_over_the_limit_is_refused(self):
        state, how = self.state()
        *_, [failed] = self.flight(bytes(1001), state, **how)
        assert failed.alert is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("size", [1, 5000])
    @pytest.mark.parametrize("groups", [(Group.X25519,), (Group.SECP256R1,)])
    def test_rejected_early_data_is_skipped_with_and_without_retry(self, size, groups):
        state, how = self.state()
        client, server, events = self.flight(bytes(size), state, **{**how, "early_data": None, "groups": groups})
        assert events == []
        while not events:
            client_events = client.receive(server.pull_outgoing(), NOW)
            events = server.receive(client.pull_outgoing(), NOW)
        assert not events[0].early_data_accepted
        assert types(client_events) == [HandshakeComplete]

    def test_too_much_rejected_early_data_is_refused(self):
        state, how = self.state()
        *_, [failed] = self.flight(bytes(20_000), state, **{**how, "early_data": None})
        assert failed.alert is Alert.UNEXPECTED_MESSAGE


class TestFaults:
    def test_handshake_error_becomes_an_alert(self):
        client, server = new_client(cipher_suites=(CipherSuite.AES_128_CCM_SHA256,)), new_server()
        client.start(NOW)
        server.receive(client.pull_outgoing(), NOW)
        [failed] = server.proceed(answer(), NOW)
        assert failed.alert is Alert.HANDSHAKE_FAILURE
        assert server.pull_outgoing() == bytes.fromhex("15030300020228")
        assert (server.needed(), server.receive(b"more", NOW)) == (0, [])

    def test_alert_is_sent_with_the_highest_keys(self):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.CHANGE_CIPHER_SPEC, b"\1"), NOW)
        assert failed.alert is Alert.UNEXPECTED_MESSAGE
        [told] = client.receive(server.pull_outgoing(), NOW)
        assert told.alert is Alert.UNEXPECTED_MESSAGE
        assert "peer sent" in told.reason
        assert client.pull_outgoing() == b""

    @pytest.mark.parametrize(("description", "alert"), [(48, Alert.UNKNOWN_CA), (0xEE, Alert.HANDSHAKE_FAILURE)])
    @pytest.mark.parametrize("level", [1, 2, 9])
    def test_every_error_alert_ends_the_stream_whatever_its_level(self, description, alert, level):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.ALERT, bytes([level, description])), NOW)
        assert failed.alert is alert
        server.close()
        assert server.pull_outgoing() == b""

    def test_close_notify_during_the_handshake_is_a_failure(self):
        server = new_server()
        [failed] = server.receive(b"\x15\3\3\0\2" + push_alert(Alert.CLOSE_NOTIFY), NOW)
        assert failed.alert is Alert.CLOSE_NOTIFY
        assert server.pull_outgoing() == b""

    def test_number_of_ignored_user_canceled_alerts_is_limited(self):
        client, server = connected()
        canceled = [inject(client, ContentType.ALERT, push_alert(Alert.USER_CANCELED)) for _ in range(MAX_WARNINGS)]
        assert server.receive(b"".join(canceled), NOW) == []
        [failed] = server.receive(inject(client, ContentType.ALERT, push_alert(Alert.USER_CANCELED)), NOW)
        assert failed.alert is Alert.USER_CANCELED

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_any_mutation_of_the_servers_flight_fails_once_and_never_otherwise(self, data):
        client, server = new_client(), new_server()
        client.start(NOW)
        server.receive(client.pull_outgoing(), NOW)
        server.proceed(answer(), NOW)
        flight = bytearray(server.pull_outgoing())
        flight[data.draw(st.integers(0, 9999)) % len(flight)] ^= data.draw(st.integers(1, 255))
        assert types(client.receive(bytes(flight), NOW)) in ([], [HandshakeComplete], [HandshakeFailed])

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_any_mutation_of_the_clients_flight_fails_once_and_never_otherwise(self, data):
        client, server = new_client(), new_server()
        client.start(NOW)
        flight = bytearray(client.pull_outgoing())
        flight[data.draw(st.integers(0, 9999)) % len(flight)] ^= data.draw(st.integers(1, 255))
        events = server.receive(bytes(flight), NOW)
        if server.waits:
            assert events == []
            events = server.proceed(answer(), NOW)
        assert types(events) in ([], [HandshakeFailed])


class TestKeyUpdate:
    @pytest.mark.parametrize("asked", [0, 1])
    def test_key_update_of_the_peer_is_answered(self, asked):
        client, server = connected()
        update = inject(client, ContentType.HANDSHAKE, b"\x18\0\0\1" + bytes([asked]))
        refused = server.receive(update[:-1], NOW)
        assert refused == []
        before = client.records.state(Direction.RECEIVE).key
        assert server.receive(update[-1:], NOW) == []
        assert bool(server.pull_outgoing()) == asked
        assert server.records.state(Direction.RECEIVE).sequence == 0
        assert (server.records.state(Direction.SEND).key != before) == asked

    def test_key_update_is_sent_at_the_key_limit(self):
        client, server = connected()
        client.records.key_lifetime = 1
        for text in (b"one", b"two", b"three"):
            client.send(text)
            assert server.receive(client.pull_outgoing(), NOW) == [ApplicationData(Level.APPLICATION, text)]

    @pytest.mark.parametrize(
        ("wrong", "alert"),
        [
            (b"\x18\0\0\0", Alert.DECODE_ERROR),
            (b"\x18\0\0\2\0\0", Alert.DECODE_ERROR),
            (b"\x18\0\0\1\2", Alert.ILLEGAL_PARAMETER),
            (b"\x18\0\0\1\0" * 2, Alert.UNEXPECTED_MESSAGE),
            (b"\x18\0\0\1\0\4", Alert.UNEXPECTED_MESSAGE),
            (b"\x0d\0\0\0", Alert.UNEXPECTED_MESSAGE),
        ],
    )
    def test_invalid_key_updates_are_refused(self, wrong, alert):
        client, server = connected()
        [failed] = server.receive(inject(client, ContentType.HANDSHAKE, wrong), NOW)
        assert failed.alert is alert

    def test_no_key_update_is_sent_after_close(self):
        client, server = connected()
        server.close()
        client.receive(server.pull_outgoing(), NOW)
        assert server.receive(inject(client, ContentType.HANDSHAKE, b"\x18\0\0\1\1"), NOW) == []
        assert server.pull_outgoing() == b""

    def test_key_update_may_span_records(self):
        client, server = connected()
        pieces = [inject(client, ContentType.HANDSHAKE, bytes([byte])) for byte in b"\x18\0\0\1\0"]
        assert server.receive(b"".join(pieces), NOW) == []
        assert server.records.state(Direction.RECEIVE).sequence == 0

    def test_number_of_consecutive_key_updates_is_limited(self):
        client = ClientHandshake(client_parameters(transport_parameters=None, alpns=()), quic=False)
        stream, server = connected(ClientStream(client))
        for left in range(MAX_KEY_UPDATES, -1, -1):
            message, secret = client.update_keys(request=False)
            events = server.receive(inject(stream, ContentType.HANDSHAKE, message.data), NOW)
            stream.records.install(secret)
            assert bool(events) == (left == 0)
