"""Handshakes and lookups on the handshake socket, and who may use a registration."""

import sys
from pathlib import Path

import pytest

from handshaked.errors import Alert, Status
from handshaked.events import CryptoData, PeerTransportParameters
from handshaked.model import AuthMode, CipherSuite, Direction, Level
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_cancel, push_crypto, push_start, push_transport_parameters
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import Acknowledged, Done, Lookup, Start
from tests.conftest import Issue
from tests.handshake_channel import (
    PARAMETERS,
    HandshakeChannel,
    client_hello,
    client_start,
    parameters_of,
    secrets_of,
    server_start,
    shake_hands,
)
from tests.patience import run_program
from tests.quic.datagrams import V1, V2, datagrams
from tests.upcall.conftest import NAME


def test_client_and_server_complete_a_handshake_on_one_connection(channel: HandshakeChannel) -> None:
    client, server = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
    assert (client.status, server.status) == (Status.OK, Status.OK)
    assert (server.alpn, server.server_name, server.registration) == (b"h3", NAME, "unix")
    assert (client.alpn, client.server_name, client.registration) == (b"h3", NAME, None)
    assert len(client.peer_certificates) == 1
    assert client.cipher_suite is server.cipher_suite is not None


def test_handshakes_on_one_connection_do_not_mix(channel: HandshakeChannel) -> None:
    hellos = {
        n: client_hello(channel, n, client_start(NAME, b"h3", transport_parameters=b"%d" % n)) for n in range(1, 30)
    }
    channel.send(
        *(push_start(100 + n, server_start()) + push_crypto(100 + n, hello, ack=True) for n, hello in hellos.items())
    )
    seen = set()
    for number in hellos:
        messages = channel.until(100 + number, Acknowledged)
        assert parameters_of(messages) == [PeerTransportParameters(b"%d" % number, b"h3")]
        seen |= {secret.secret for secret in secrets_of(messages)}
    assert len(seen) == 3 * len(hellos)


def test_flight_is_one_packet_in_each_direction(channel: HandshakeChannel) -> None:
    hello = client_hello(channel, 1, client_start(NAME, b"h3"))
    before = channel.packets
    channel.send(push_start(2, server_start()), push_crypto(2, hello, ack=True))
    messages = channel.until(2, Acknowledged)
    assert channel.packets == before + 1
    kinds = [(m.level, m.direction) if hasattr(m, "direction") else getattr(m, "level", type(m)) for m in messages]
    assert kinds == [
        PeerTransportParameters,
        Level.INITIAL,
        (Level.HANDSHAKE, Direction.SEND),
        (Level.HANDSHAKE, Direction.RECEIVE),
        Level.HANDSHAKE,
        (Level.APPLICATION, Direction.SEND),
        Acknowledged,
    ]


def test_server_may_send_its_transport_parameters_later(channel: HandshakeChannel) -> None:
    hello = client_hello(channel, 1, client_start(NAME, b"h3"))
    channel.send(push_start(2, server_start(transport_parameters=None)), push_crypto(2, hello, ack=True))
    messages = channel.until(2, Acknowledged)
    assert parameters_of(messages) == [PeerTransportParameters(PARAMETERS, b"h3")]
    assert secrets_of(messages) == []
    channel.send(push_transport_parameters(2, b"mine", ack=True))
    assert len(secrets_of(channel.until(2, Acknowledged))) == 3


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (client_start(NAME), Status.INVALID),
        (client_start(NAME, b"h3", transport_parameters=None), Status.INVALID),
        (client_start(None, b"h3", auth_mode=AuthMode.X509), Status.INVALID),
        (client_start("not a name", b"h3"), Status.INVALID),
        (client_start(NAME, b"h3", registration="unknown"), Status.NO_KEY),
        (client_start(NAME, b"h3", auth_mode=AuthMode.PSK), Status.UNSUPPORTED),
        (client_start(NAME, b"h3", auth_mode=AuthMode.X509, trust_anchors=(b"x",)), Status.INVALID),
    ],
)
def test_impossible_start_fails_immediately_with_a_reason(channel: HandshakeChannel, start: Start, status: int) -> None:
    channel.send(push_start(1, start))
    outcome = channel.outcome(1)
    assert (outcome.status, bool(outcome.reason)) == (status, True)


def test_refused_client_hello_has_an_alert(channel: HandshakeChannel) -> None:
    for number, (name, alpn, alert) in enumerate(
        [
            ("unknown.example.com", b"h3", Alert.UNRECOGNIZED_NAME),
            (NAME, b"unknown", Alert.NO_APPLICATION_PROTOCOL),
            (None, b"h3", Alert.MISSING_EXTENSION),
        ]
    ):
        hello = client_hello(channel, 1 + 2 * number, client_start(name, alpn))
        channel.send(push_start(2 + 2 * number, server_start(registration="unix")), push_crypto(2 + 2 * number, hello))
        assert channel.outcome(2 + 2 * number).alert is alert


def test_cipher_suites_can_be_limited(channel: HandshakeChannel) -> None:
    suite = CipherSuite.CHACHA20_POLY1305_SHA256
    client, _ = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start(cipher_suites=(suite,)))
    assert client.cipher_suite is suite


def test_sequence_number_is_free_after_done(channel: HandshakeChannel) -> None:
    for _ in range(3):
        channel.inbox.clear()
        client, server = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
        assert (client.status, server.status) == (Status.OK, Status.OK)


def test_sequence_number_in_use_is_refused_and_ends_its_handshake(channel: HandshakeChannel) -> None:
    channel.send(push_start(1, server_start()), push_start(1, server_start()))
    assert channel.refusal(1).error.status == Status.EXISTS
    assert channel.outcome(1).status == Status.INVALID


def test_canceled_handshake_ends_and_others_continue(channel: HandshakeChannel) -> None:
    channel.send(push_start(1, server_start()), push_start(2, server_start()), push_cancel(1))
    assert channel.outcome(1).status == Status.CANCELED
    client, server = shake_hands(channel, 3, 4, client_start(NAME, b"h3"), server_start())
    assert (client.status, server.status) == (Status.OK, Status.OK)
    channel.send(push_cancel(2))
    assert channel.outcome(2).status == Status.CANCELED


def test_messages_for_a_finished_handshake_are_ignored(channel: HandshakeChannel) -> None:
    data = CryptoData(Level.INITIAL, b"late")
    channel.send(push_cancel(1), push_crypto(1, data), push_transport_parameters(1, b"late"))
    channel.send(push_start(2, server_start(), ack=True))
    assert channel.until(2, Acknowledged) == [Acknowledged()]
    assert channel.inbox[1] == []


def test_slow_handshake_ends_with_etimedout(channel: HandshakeChannel) -> None:
    channel.send(push_start(1, server_start(timeout=0.05)), push_start(2, server_start()))
    outcome = channel.outcome(1)
    assert (outcome.status, outcome.reason) == (Status.TIMED_OUT, "no Finished from the peer within 0.05 s")
    assert channel.inbox[2] == []


def test_deadline_is_absolute(channel: HandshakeChannel) -> None:
    channel.send(push_start(1, server_start(timeout=0.2)))
    channel.send(push_crypto(1, CryptoData(Level.INITIAL, b"\1\0\xea\x60")))  # a ClientHello of 60,000 bytes begins
    while not any(isinstance(message, Done) for message in channel.inbox[1]):
        channel.send(push_crypto(1, CryptoData(Level.INITIAL, b"x")), push_start(2, server_start()), push_cancel(2))
        channel.outcome(2)
    assert channel.outcome(1).status == Status.TIMED_OUT


def test_lookup_by_client_hello_and_by_datagrams_agree(channel: HandshakeChannel) -> None:
    hello = client_hello(channel, 1, client_start(NAME, b"smb", b"h3")).data
    questions = [
        Lookup(client_hello=hello),
        Lookup(datagrams=tuple(datagrams(hello, 150, version=V1))),
        Lookup(datagrams=tuple(datagrams(hello, 150, version=V2)[::-1])),
    ]
    for sequence, question in enumerate(questions, 10):
        channel.send(push_lookup(sequence, question))
        answer = channel.answer(sequence)
        assert (answer.status, answer.registration, answer.alpn, answer.server_name) == (0, "unix", b"smb", NAME)


def test_lookup_without_a_match_has_an_alert(channel: HandshakeChannel) -> None:
    hello = client_hello(channel, 1, client_start("unknown.example.com", b"h3")).data
    channel.send(push_lookup(2, Lookup(client_hello=hello)))
    answer = channel.answer(2)
    assert (answer.status, answer.alert, answer.registration) == (Status.REFUSED, Alert.UNRECOGNIZED_NAME, None)


@pytest.mark.parametrize(
    "lookup",
    [
        Lookup(client_hello=b""),
        Lookup(client_hello=b"\1"),
        Lookup(client_hello=b"\1\0\0\0"),
        Lookup(client_hello=b"\2\0\0\1x"),
        Lookup(client_hello=b"\1\0\0\1xtail"),
        Lookup(client_hello=b"\1\xff\xff\xff"),
        Lookup(datagrams=(b"",)),
        Lookup(datagrams=(b"\x40short",)),
        Lookup(datagrams=tuple(datagrams(b"\1\0\x10\0" + bytes(4096))[:2])),
        Lookup(datagrams=(b"\xc0\0\0\0\1" + bytes(60),)),
    ],
)
def test_malformed_lookup_has_an_alert(channel: HandshakeChannel, lookup: Lookup) -> None:
    channel.send(push_lookup(1, lookup), push_start(2, server_start(), ack=True))
    answer = channel.answer(1)
    assert (answer.status, answer.registration) == (Status.REFUSED, None)
    assert answer.alert is not None
    assert channel.until(2, Acknowledged) == [Acknowledged()]


_ASK = """
import os, sys
from pathlib import Path
from tests.handshake_channel import *  # all there is to import, as long as the interpreter can be read
os.setgroups([int(group) for group in sys.argv[3].split(",") if group])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
with HandshakeChannel(Path(sys.argv[1])) as channel:
    client, server = shake_hands(channel, 1, 2, client_start(sys.argv[4], b"h3"), server_start())
print(server.status, server.alert.label if server.alert else server.registration)
"""


def ask_as(path: Path, uid: int, groups: str, name: str) -> str:
    """Return the outcome of a process of another user."""
    run = run_program(sys.executable, "-c", _ASK, str(path), str(uid), groups, name, check=False)
    return run.stdout.strip() or run.stderr


@pytest.mark.needs("root")
def test_only_permitted_users_may_use_a_registration(shared_daemon: RunningDaemon, issue: Issue) -> None:
    name = "allowed.example.com"
    issued = issue(name)
    shared_daemon.register(
        "allowed",
        (issued.certificate, issued.key),
        alpns=["h3"],
        server_names=[name],
        allow_users=["54321"],
        allow_groups=["54322"],
    )
    path = shared_daemon.handshake_socket
    assert ask_as(path, 54321, "", name) == "0 allowed"
    assert ask_as(path, 54322, "", name) == "0 allowed"  # by its first group
    assert ask_as(path, 54323, "54325,54322", name) == "0 allowed"  # by one of the others
    assert ask_as(path, 54323, "54325", name) == f"{Status.REFUSED} unrecognized_name"
    assert ask_as(path, 54323, "54321", name) == f"{Status.REFUSED} unrecognized_name"  # a gid is no uid
    assert ask_as(path, 0, "", name) == "0 allowed"
