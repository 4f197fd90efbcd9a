"""Alerts of a TCP client: under keys that its server reads, and in compatibility mode after change_cipher_spec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import (
    CryptoData,
    Event,
    HandshakeComplete,
    HandshakeFailed,
    SessionTicket,
    SignatureNeeded,
)
from handshaked.model import ClientAuth, Group, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.codepoints import HandshakeType
from handshaked.tls.parameters import ClientHello, EarlyData, ServerParameters
from handshaked.tls.record import ContentType
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ClientStream, ServerStream
from tests.tls.pair import NOW, client_parameters, credential
from tests.tls.test_resumption import Guard
from tests.tls.test_stream import CCS, TICKETS, AcceptsAll, answer, new_client, new_server, talk, types

APPLICATION_DATA, ALERT = 23, 21


class DamagingHandshake:
    """A server's handshake whose message of type `damaged` is spoiled on its way."""

    def __init__(self, damaged: int) -> None:
        self._damaged = damaged
        self._handshake = ServerHandshake(quic=False)

    @property
    def early_data(self) -> bool | None:
        return self._handshake.early_data

    @property
    def peer_record_size_limit(self) -> int | None:
        return self._handshake.peer_record_size_limit

    @property
    def client_hello(self) -> ClientHello | None:
        return self._handshake.client_hello

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        return self._spoiled(self._handshake.receive(level, data, now))

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        return self._spoiled(self._handshake.proceed(parameters, now))

    def proceed_with_signature(self, signature: bytes) -> list[Event]:
        return self._handshake.proceed_with_signature(signature)

    def update_keys(self, *, request: bool) -> list[Event]:
        return self._handshake.update_keys(request=request)

    def _spoiled(self, events: list[Event]) -> list[Event]:
        return [replace(each, data=self._spoil(each.data)) if isinstance(each, CryptoData) else each for each in events]

    def _spoil(self, flight: bytes) -> bytes:
        """Return `flight` with an invalid last byte in the damaged message, which is an extension or a digest."""
        spoiled, at = bytearray(flight), 0
        while at < len(flight):
            end = at + 4 + int.from_bytes(flight[at + 1 : at + 4])
            if flight[at] == self._damaged == HandshakeType.ENCRYPTED_EXTENSIONS:
                # One more extension, which was not requested.
                spoiled[at:end] = b"\x08" + (end - at).to_bytes(3) + (end - at - 2).to_bytes(2)
                spoiled[at + 6 : at + 6] = flight[at + 6 : end] + b"\x12\x34\0\0"
                return bytes(spoiled)
            if flight[at] == self._damaged:
                spoiled[end - 1] ^= 0xFF
            at = end
        return bytes(spoiled)


@dataclass(frozen=True)
class Scene:
    """A handshake that the client aborts because of a `damaged` message."""

    damaged: HandshakeType
    offered: bool = True
    accepted: bool = True
    early: int = 0
    retried: bool = False


SCENES = st.builds(
    Scene,
    damaged=st.sampled_from([HandshakeType.SERVER_HELLO, HandshakeType.ENCRYPTED_EXTENSIONS, HandshakeType.FINISHED]),
    offered=st.booleans(),
    accepted=st.booleans(),
    early=st.sampled_from([0, 1, 100, 5000]),
    retried=st.booleans(),
)


def alerted(scene: Scene) -> tuple[HandshakeFailed, HandshakeFailed, bytes]:
    """Return how the client and the server fail, and all that the client has sent."""
    accepting = {"tickets": TICKETS, "early_data": EarlyData(Guard(), max_size=10_000)}
    first, _ = talk(new_client(), new_server(), **accepting)
    (ticket,) = (event for event in first if isinstance(event, SessionTicket))
    client = new_client(session_ticket=ticket.state, early_data=scene.offered, groups=(Group.X25519, Group.SECP256R1))
    server = ServerStream(DamagingHandshake(scene.damaged))
    client.start(NOW)
    sent = client.pull_outgoing()
    if scene.offered and scene.early:
        sent += client.records.protect(Level.EARLY, ContentType.APPLICATION_DATA, bytes(scene.early))
    changes: dict[str, Any] = accepting if scene.accepted else {"tickets": TICKETS}
    if scene.retried:
        changes = {**changes, "groups": (Group.SECP256R1,)}
    theirs = failures(server.receive(sent, NOW) + server.proceed(answer(**changes), NOW))
    ours: list[HandshakeFailed] = []
    while not ours:
        ours = failures(client.receive(server.pull_outgoing(), NOW))
        up = client.pull_outgoing()
        sent += up
        theirs += failures(server.receive(up, NOW))
    (our_end,), (their_end,) = ours, theirs
    return our_end, their_end, sent


def failures(events: list[Any]) -> list[HandshakeFailed]:
    return [event for event in events if isinstance(event, HandshakeFailed)]


def records(wire: bytes) -> list[tuple[int, bytes]]:
    """Return content type and bytes of each record."""
    found = []
    while wire:
        end = 5 + int.from_bytes(wire[3:5])
        found.append((wire[0], wire[:end]))
        wire = wire[end:]
    return found


@settings(max_examples=80, deadline=None)
@given(SCENES)
def test_server_reads_the_alert_of_its_client(scene: Scene) -> None:
    ours, theirs, sent = alerted(scene)
    assert theirs.reason == f"the peer sent the alert {ours.alert.label}"
    kinds = [kind for kind, _ in records(sent)]
    if APPLICATION_DATA in kinds:  # RFC 8446 appendix D.4
        assert kinds.index(20) < kinds.index(APPLICATION_DATA)
    assert kinds.count(20) <= 1


@pytest.mark.parametrize("early", [0, 100])
@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize(
    "damaged", [HandshakeType.SERVER_HELLO, HandshakeType.ENCRYPTED_EXTENSIONS, HandshakeType.FINISHED]
)
def test_alert_around_early_data_is_read(damaged: HandshakeType, accepted: bool, early: int) -> None:
    ours, theirs, sent = alerted(Scene(damaged, accepted=accepted, early=early))
    assert theirs.alert is ours.alert
    last, record = records(sent)[-1]
    in_the_clear = damaged is HandshakeType.SERVER_HELLO
    assert (last, len(record)) == ((ALERT, 7) if in_the_clear else (APPLICATION_DATA, 24))


@pytest.mark.parametrize("retried", [True, False])
def test_change_cipher_spec_follows_a_hello_that_offers_early_data(retried: bool) -> None:
    first, _ = talk(new_client(), new_server(), tickets=TICKETS, early_data=EarlyData(Guard()))
    (ticket,) = (event for event in first if isinstance(event, SessionTicket))
    client, server = new_client(session_ticket=ticket.state, early_data=True), new_server()
    client.start(NOW)
    hello = client.pull_outgoing()
    assert [kind for kind, _ in records(hello)] == [22, 20]
    server.receive(hello, NOW)
    groups = (Group.SECP256R1,) if retried else (Group.X25519,)
    server.proceed(answer(tickets=TICKETS, early_data=EarlyData(Guard()), groups=groups), NOW)
    later = b""
    events: list[Any] = []
    while not events:
        client.receive(server.pull_outgoing(), NOW)
        up = client.pull_outgoing()
        later += up
        events = server.receive(up, NOW)
    assert types(events) == [HandshakeComplete]
    assert CCS not in later


class RefusingVerifier:
    """Refuses every server."""

    trust = b"none"

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        raise PeerError(Alert.UNKNOWN_CA, "refused")


def refused_by_client(**changes: Any) -> tuple[bytes, ServerStream]:
    """Return what a client sends that refuses its server's certificate, and the server."""
    client: ClientStream = new_client(verifier=RefusingVerifier(), **changes)
    server = new_server()
    client.start(NOW)
    server.receive(client.pull_outgoing(), NOW)
    server.proceed(answer(), NOW)
    [failed] = client.receive(server.pull_outgoing(), NOW)
    assert failed.alert is Alert.UNKNOWN_CA
    return client.pull_outgoing(), server


def test_encrypted_alert_follows_change_cipher_spec() -> None:
    sent, server = refused_by_client()
    assert [kind for kind, _ in records(sent)] == [20, APPLICATION_DATA]
    [told] = server.receive(sent, NOW)
    assert told.alert is Alert.UNKNOWN_CA


def test_alert_in_the_clear_needs_no_change_cipher_spec() -> None:
    client = new_client()
    client.start(NOW)
    client.pull_outgoing()
    [failed] = client.receive(bytes.fromhex("160303000402000000"), NOW)
    assert failed.alert is Alert.DECODE_ERROR
    assert client.pull_outgoing() == bytes.fromhex("15030300020232")


def test_closing_during_the_handshake_follows_change_cipher_spec() -> None:
    client, server = new_client(), new_server()
    client.start(NOW)
    server.receive(client.pull_outgoing(), NOW)
    server.proceed(answer(), NOW)
    hello = server.pull_outgoing()
    client.receive(hello[: 5 + int.from_bytes(hello[3:5])], NOW)
    client.close()
    sent = client.pull_outgoing()
    assert [kind for kind, _ in records(sent)] == [20, APPLICATION_DATA]
    [told] = server.receive(sent, NOW)
    assert told.alert is Alert.CLOSE_NOTIFY


UNSIGNED = replace(credential(name="client"), signer=None)


@pytest.mark.parametrize("closes", [False, True])
def test_alert_while_a_signature_is_awaited_has_handshake_keys(closes: bool) -> None:
    """The server has application keys to read with only after the client's Finished."""
    parameters = client_parameters(transport_parameters=None, alpns=(), credential=UNSIGNED)
    client, server = ClientStream(ClientHandshake(parameters, quic=False)), new_server()
    client.start(NOW)
    server.receive(client.pull_outgoing(), NOW)
    assert server.proceed(answer(client_auth=ClientAuth.REQUIRE, client_verifier=AcceptsAll()), NOW) == []
    assert types(client.receive(server.pull_outgoing(), NOW)) == [SignatureNeeded]
    if closes:
        client.close()
    else:
        client.fail(LocalError("the key is gone"))
    [told] = server.receive(client.pull_outgoing(), NOW)
    assert told.alert is (Alert.CLOSE_NOTIFY if closes else Alert.INTERNAL_ERROR)
    assert "the peer sent the alert" in told.reason
