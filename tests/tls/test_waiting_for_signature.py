"""Without a signer, the engine stops for the signature of its own CertificateVerify, and continues with it."""

import dataclasses

import pytest

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import HandshakeComplete, HandshakeFailed, SignatureNeeded
from handshaked.model import ClientAuth, Group, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, ServerParameters
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ClientStream, ServerStream
from tests.fuzz.mutate import YES
from tests.tls.pair import NOW, client_parameters, credential, data, kinds, server_parameters
from tests.tls.test_external_psk import PSK, Source

SERVER, CLIENT = credential(), credential(name="client")
UNSIGNED_SERVER, UNSIGNED_CLIENT = (dataclasses.replace(one, signer=None) for one in (SERVER, CLIENT))
ASKING = server_parameters(credential=UNSIGNED_SERVER, client_auth=ClientAuth.REQUIRE, client_verifier=YES)
ANSWERING = client_parameters(credential=UNSIGNED_CLIENT)


def signature_for(events: list) -> bytes:
    """Return the signature that the last event needs."""
    needed = events[-1]
    assert isinstance(needed, SignatureNeeded)
    signer = (SERVER if needed.by_server else CLIENT).signer
    assert signer is not None
    return signer.sign(needed.scheme, needed.transcript_hash, by_server=needed.by_server)


def waiting_server(
    client: ClientParameters | None = None, parameters: ServerParameters = ASKING
) -> tuple[ClientHandshake, ServerHandshake, list]:
    """Return a client, a server that waits for its signature, and the server's events."""
    sender, server = ClientHandshake(client or ANSWERING), ServerHandshake()
    server.receive(Level.INITIAL, data(sender.start(NOW)), NOW)
    return sender, server, server.proceed(parameters, NOW)


def waiting_client() -> tuple[ClientHandshake, ServerHandshake, list]:
    """Return a client that waits for its signature, its server, and the client's events."""
    client, server, events = waiting_server()
    events += server.proceed_with_signature(signature_for(events))
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    return client, server, client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW)


def test_both_sides_wait_after_their_secrets_and_before_their_flight() -> None:
    _, server, events = waiting_server()
    assert kinds(events) == [
        "crypto initial",
        "secret handshake send",
        "secret handshake receive",
        "SignatureNeeded",
    ]
    assert kinds(server.proceed_with_signature(signature_for(events))) == [
        "crypto handshake",
        "secret application send",
    ]
    client, server, events = waiting_client()
    assert kinds(events)[-3:] == ["secret application receive", "secret application send", "SignatureNeeded"]
    assert not client.complete
    events = client.proceed_with_signature(signature_for(events))
    assert kinds(events) == ["crypto handshake", "HandshakeComplete"]
    assert isinstance(server.receive(Level.HANDSHAKE, data(events), NOW)[-1], HandshakeComplete)


def test_each_side_says_its_role_and_the_scheme() -> None:
    for events, by_server in ((waiting_server()[2], True), (waiting_client()[2], False)):
        needed = events[-1]
        assert isinstance(needed, SignatureNeeded)
        assert needed.by_server is by_server
        assert needed.scheme in credential().key_type.schemes
        assert len(needed.transcript_hash) in (32, 48)


def test_server_waits_after_a_hello_retry_request() -> None:
    client, server, events = waiting_server(
        parameters=server_parameters(credential=UNSIGNED_SERVER, groups=(Group.SECP384R1,))
    )
    assert kinds(events) == ["crypto initial"]
    retried = client.receive(Level.INITIAL, data(events), NOW)
    events = server.receive(Level.INITIAL, data(retried), NOW)
    assert kinds(events)[-1] == "SignatureNeeded"
    server.proceed_with_signature(signature_for(events))


def test_a_signer_is_asked_at_once() -> None:
    asking = dataclasses.replace(ASKING, credential=SERVER)
    client, server, events = waiting_server(client_parameters(credential=CLIENT), asking)
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    events = client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW)
    assert isinstance(events[-1], HandshakeComplete)
    assert isinstance(server.receive(Level.HANDSHAKE, data(events), NOW)[-1], HandshakeComplete)


def test_a_psk_needs_no_signature() -> None:
    _, server, events = waiting_server(
        client_parameters(psk=PSK), server_parameters(credential=UNSIGNED_SERVER, psks=Source(PSK))
    )
    assert kinds(events)[-2:] == ["crypto handshake", "secret application send"]
    with pytest.raises(LocalError, match="no signature is needed"):
        server.proceed_with_signature(b"signature")


def test_messages_while_waiting_are_unexpected() -> None:
    client, server, _ = waiting_server()
    with pytest.raises(PeerError, match="waiting for the signature") as caught:
        server.receive(Level.HANDSHAKE, b"\x14\0\0\x20" + bytes(32), NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE
    client, _, _ = waiting_client()
    with pytest.raises(PeerError, match="waiting for the signature"):
        client.receive(Level.APPLICATION, b"\x04\0\0\x20" + bytes(32), NOW)


def test_a_signature_that_is_not_needed_fails_the_handshake() -> None:
    fresh = ClientHandshake(client_parameters())
    fresh.start(NOW)
    _, signed, events = waiting_server()
    signed.proceed_with_signature(signature_for(events))
    for engine in (ServerHandshake(), fresh, signed):
        with pytest.raises(LocalError, match="no signature is needed"):
            engine.proceed_with_signature(b"signature")
        with pytest.raises(LocalError, match="already failed"):
            engine.receive(Level.INITIAL, b"", NOW)


def test_a_wrong_signature_is_noticed_by_the_peer() -> None:
    client, server, events = waiting_server()
    events += server.proceed_with_signature(bytes(70))
    client.receive(Level.INITIAL, data(events, Level.INITIAL), NOW)
    with pytest.raises(PeerError) as caught:
        client.receive(Level.HANDSHAKE, data(events, Level.HANDSHAKE), NOW)
    assert caught.value.alert is Alert.DECRYPT_ERROR


class TestStreams:
    """Over TCP, nothing is read while the stream waits."""

    def streams(self) -> tuple[ClientStream, ServerStream, list]:
        parameters = {"transport_parameters": None}
        client = ClientStream(ClientHandshake(client_parameters(credential=UNSIGNED_CLIENT, **parameters), quic=False))
        server = ServerStream(ServerHandshake(quic=False))
        client.start(NOW)
        server.receive(client.pull_outgoing(), NOW)
        asking = dataclasses.replace(ASKING, **parameters)
        return client, server, server.proceed(asking, NOW)

    def test_a_handshake_with_two_signatures(self) -> None:
        client, server, events = self.streams()
        assert server.needed() == 0
        server.proceed_with_signature(signature_for(events), NOW)
        assert server.needed() > 0
        events = client.receive(server.pull_outgoing(), NOW)
        assert client.needed() == 0
        assert isinstance(client.proceed_with_signature(signature_for(events), NOW)[-1], HandshakeComplete)
        assert isinstance(server.receive(client.pull_outgoing(), NOW)[-1], HandshakeComplete)

    def test_what_arrives_while_waiting_is_processed_afterwards(self) -> None:
        client, server, events = self.streams()
        client.close()
        assert server.receive(client.pull_outgoing(), NOW) == []
        (failed,) = server.proceed_with_signature(signature_for(events), NOW)
        assert isinstance(failed, HandshakeFailed)
        assert failed.alert is Alert.CLOSE_NOTIFY
