"""The Unix source: many handshakes on one connection, and callers that misbehave in every way."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from handshaked.callers.account import Limits
from handshaked.errors import Alert, Status, WireError
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket
from handshaked.model import AuthMode, CipherSuite, Direction, KeyType, Level, Request
from handshaked.registry.snapshot import Query, Selection, Snapshot
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.parameters import ServerParameters, Tickets
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.wire.family import push_cancel, push_crypto, push_start, push_transport_parameters
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import FAMILY, MAX_PACKET, Acknowledged, Command, Done, Lookup, Start, StartAttribute
from handshaked.wire.netlink import push_error, push_message, push_u32
from tests.conftest import Issue
from tests.handshake_channel import (
    PARAMETERS,
    GoneError,
    HandshakeChannel,
    client_hello,
    client_start,
    eventually,
    parameters_of,
    secrets_of,
    served,
    server_start,
    shake_hands,
    user,
)
from tests.patience import PATIENCE, run_program
from tests.quic.datagrams import V1, V2, datagrams
from tests.registered import Registered

NAME = "unix.example.com"
MALFORMED = push_message(FAMILY, 7, Command.START, push_u32(StartAttribute.MESSAGE_TYPE, 9))


@pytest.fixture(scope="module")
def registered(authority: Authority, issue: Issue) -> Registered:
    made = Registered(authority)
    made.add("unix", (KeyType.ECDSA_P256, issue(NAME)), names=(NAME,), alpns=(b"h3", b"smb"))
    return made


@pytest.fixture(scope="module")
def socket_path(shared_daemon: RunningDaemon, issue: Issue) -> Path:
    issued = issue(NAME)
    shared_daemon.register("unix", (issued.certificate, issued.key), alpns=["h3", "smb"], server_names=[NAME])
    return shared_daemon.handshake_socket


@pytest.fixture
def channel(socket_path: Path) -> Iterator[HandshakeChannel]:
    with HandshakeChannel(socket_path) as opened:
        yield opened


# What it is for.


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


# Giving up.


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


# Lookup.


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


# Malformed messages.


def test_malformed_message_ends_only_its_handshake(channel: HandshakeChannel) -> None:
    channel.send(push_start(7, server_start()), push_start(8, server_start()))
    channel.send(MALFORMED)
    error = channel.refusal(7).error
    assert (error.status, error.reason) == (Status.OUT_OF_RANGE, "message-type: is 9, the limit is 2")
    assert channel.outcome(7).status == Status.INVALID
    client, server = shake_hands(channel, 9, 10, client_start(NAME, b"h3"), server_start())
    assert (client.status, server.status) == (Status.OK, Status.OK)
    assert channel.inbox[8] == []


def test_error_message_of_an_endpoint_is_refused(channel: HandshakeChannel) -> None:
    channel.send(push_error(3, WireError("I do not like it")))
    assert channel.refusal(3).error.status == Status.UNSUPPORTED


@pytest.mark.parametrize("tail", [b"abc", b"\xff\xff\xff\xff" + bytes(16), bytes(20)])
def test_malformed_framing_ends_all_handshakes_and_closes(channel: HandshakeChannel, tail: bytes) -> None:
    channel.send(push_start(1, server_start()), push_start(2, server_start()))
    channel.send(push_start(3, server_start()) + tail)
    for sequence in (1, 2, 3):
        outcome = channel.outcome(sequence)
        assert outcome.status == Status.INVALID
        assert "malformed packet" in outcome.reason
    assert channel.refusal(0).error.status == Status.INVALID
    assert channel.closed()


def test_packet_beyond_the_limit_is_malformed(channel: HandshakeChannel) -> None:
    channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET)
    channel.send(bytes(MAX_PACKET + 4))
    assert channel.refusal(0).error.status == Status.TOO_LONG
    assert channel.closed()


def test_unexpected_descriptors_are_closed(channel: HandshakeChannel) -> None:
    reading, writing = os.pipe()
    try:
        channel.send(push_start(1, server_start(), ack=True), descriptors=(writing,))
        os.close(writing)
        assert channel.until(1, Acknowledged) == [Acknowledged()]
        assert os.read(reading, 1) == b""  # the end: nobody else holds the other side
    finally:
        os.close(reading)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Return VmRSS in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def bad_packets(count: int) -> Iterator[bytes]:
    """Yield packets that are malformed in every way, in turn."""
    good = push_start(1, server_start(alpns=(b"h3",)))
    for number in range(count):
        kind = number % 8
        if kind == 0:
            yield os.urandom(1 + number % 200)
        elif kind == 1:
            yield good[: 1 + number % len(good)]
        elif kind == 2:
            damaged = bytearray(good)
            damaged[number % len(good)] ^= 1 << number % 8
            yield bytes(damaged)
        elif kind == 3:
            yield MALFORMED * (1 + number % 50)
        elif kind == 4:
            yield push_start(number, server_start()) + MALFORMED + b"tail"
        elif kind == 5:
            yield push_message(FAMILY, number, Command(1 + number % 7), os.urandom(number % 64))
        elif kind == 6:
            yield push_crypto(number, CryptoData(Level.INITIAL, os.urandom(100)))
        else:
            yield push_lookup(number, Lookup(client_hello=os.urandom(50)))


@pytest.mark.slow
def test_malformed_packets_leak_nothing(public_directory: Path, issue: Issue) -> None:
    issued = issue(NAME)
    with RunningDaemon(public_directory, workers=1) as daemon:
        daemon.register("unix", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        (worker,) = daemon.worker_pids()
        count = descriptors(worker)

        def send(packets: Iterator[bytes]) -> None:
            """Send each packet and wait until it was handled."""
            with ExitStack() as stack:
                channel = stack.enter_context(HandshakeChannel(daemon.handshake_socket))
                for packet in packets:
                    try:
                        channel.send(packet)
                        channel.send(push_start(1, server_start(), ack=True), push_cancel(1))
                        channel.until(1, Acknowledged)
                    except (GoneError, ConnectionError):
                        stack.close()
                        channel = stack.enter_context(HandshakeChannel(daemon.handshake_socket))

        send(bad_packets(2000))  # what is allocated once
        memory = resident(worker)
        send(bad_packets(10_000))
        assert daemon.worker_pids() == [worker]
        assert eventually(lambda: descriptors(worker) == count)
        assert resident(worker) < memory + 8 * 1024
        with HandshakeChannel(daemon.handshake_socket) as channel:
            client, server = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
            assert (client.status, server.status) == (Status.OK, Status.OK)
        status = daemon.ask("status")
        assert status["worker_restarts"] == 0
        assert sum(one["in_flight"] for one in status["workers"]) == 0


# Who may what.

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


# Limits.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "handshake.sock"


def test_handshakes_of_a_caller_are_limited_across_connections(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(handshakes=4)), HandshakeChannel(path) as one, HandshakeChannel(path) as two:
        one.send(*(push_start(n, server_start(), ack=True) for n in range(3)))
        for number in range(3):
            one.until(number, Acknowledged)
        two.send(push_start(1, server_start(), ack=True))
        two.until(1, Acknowledged)
        two.send(push_start(2, server_start()))
        outcome = two.outcome(2)
        assert (outcome.status, "4 handshakes in flight" in outcome.reason) == (Status.RATE_LIMITED, True)
        one.send(push_cancel(0))
        assert one.outcome(0).status == Status.CANCELED
        two.send(push_start(3, server_start(), ack=True))
        assert two.until(3, Acknowledged) == [Acknowledged()]


def test_closed_connection_releases_its_handshakes(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(handshakes=4)) as service:
        for _ in range(3):
            with HandshakeChannel(path) as channel:
                channel.send(*(push_start(n, server_start(), ack=True) for n in range(4)))
                for number in range(4):
                    assert channel.until(number, Acknowledged) == [Acknowledged()]
            assert eventually(lambda: service.in_flight == 0)


def test_connections_of_a_caller_are_limited(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(connections=2)), HandshakeChannel(path) as one, HandshakeChannel(path):
        with HandshakeChannel(path) as third:
            assert third.closed()
        one.send(push_start(1, server_start(), ack=True))
        assert one.until(1, Acknowledged) == [Acknowledged()]


def test_timeout_beyond_the_limit_is_reduced(registered: Registered, path: Path) -> None:
    with (
        served(registered, path, Limits(longest_timeout=0.05, default_timeout=0.04)),
        HandshakeChannel(path) as channel,
    ):
        channel.send(push_start(1, server_start(timeout=600)), push_start(2, server_start()))
        channel.send(push_start(3, server_start(timeout=0)))
        assert channel.outcome(1).reason.endswith("within 0.05 s")
        assert channel.outcome(2).reason.endswith("within 0.04 s")
        assert channel.outcome(3).reason.endswith("within 0.04 s")


def burst(channel: HandshakeChannel, messages: int) -> None:
    """Send `messages` messages and wait until they are handled."""
    while messages > 0:
        count = min(messages, 1000)
        channel.send(push_cancel(1) * (count - 1), push_start(2, server_start(), ack=True))
        channel.until(2, Acknowledged)
        channel.send(push_cancel(2))
        channel.outcome(2)
        messages -= count + 1


@pytest.mark.parametrize("reconnect", [False, True])
def test_message_rate_of_a_caller_is_limited_across_connections(
    registered: Registered, path: Path, reconnect: bool
) -> None:
    rate, seconds = 2000, 2
    with served(registered, path, Limits(messages_per_second=rate)):
        started = time.monotonic()
        channel = HandshakeChannel(path)
        for _ in range(seconds + 1):  # a second's worth is free
            if reconnect:
                channel.sock.close()
                channel = HandshakeChannel(path)
            burst(channel, rate)
        channel.sock.close()
    # Slower is always possible, faster is not; the last thousand are paid for by who comes next.
    assert time.monotonic() - started > seconds - 1.2 + 0.5


def test_byte_rate_of_a_caller_is_limited(registered: Registered, path: Path) -> None:
    lookup = push_lookup(1, Lookup(client_hello=bytes(60_000)))
    with served(registered, path, Limits(bytes_per_second=300_000)), HandshakeChannel(path) as channel:
        started = time.monotonic()
        for _ in range(10):
            channel.send(lookup)
            channel.answer(1)
    assert time.monotonic() - started > 0.7


def test_caller_that_does_not_read_is_disconnected(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(unsent_bytes=100_000)) as service, HandshakeChannel(path) as channel:
        channel.sock.settimeout(0.2)
        channel.send(push_start(1, server_start()))
        with suppress(OSError):  # whichever way the connection ends
            for _ in range(1000):
                with suppress(TimeoutError):
                    channel.send(MALFORMED * 500)
        assert eventually(lambda: service.in_flight == 0)


def unread(channel: HandshakeChannel, size: int) -> None:
    """Cause `size` bytes of answers more than the system buffers, and do not read them."""
    size += channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    while size > 0:
        channel.send(MALFORMED * 500)
        size -= 500 * len(push_error(7, WireError("message-type: is 9, the limit is 2")))


def test_unread_bytes_are_limited_across_connections(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(unsent_bytes=500_000)) as service, ExitStack() as stack:
        channels = [stack.enter_context(HandshakeChannel(path)) for _ in range(8)]
        unread(channels[0], 200_000)
        for channel in channels:  # below the limit
            channel.send(push_start(1, server_start(timeout=60), ack=True))
            assert channel.until(1, Acknowledged) == [Acknowledged()]
        assert service.in_flight == len(channels)
        for channel in channels:
            with suppress(OSError):  # whichever of them is cut off
                unread(channel, 200_000)
        assert eventually(lambda: service.in_flight < len(channels))


def test_unread_bytes_of_a_closed_connection_do_not_count(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(unsent_bytes=500_000)) as service:
        for _ in range(40):
            with HandshakeChannel(path) as channel:
                channel.send(*(push_start(n, server_start()) for n in range(200)), push_cancel(0))
                channel.outcome(0)
        assert eventually(lambda: service.in_flight == 0)
        with HandshakeChannel(path) as channel:
            unread(channel, 200_000)
            channel.send(push_start(1, server_start(), ack=True))
            assert channel.until(1, Acknowledged) == [Acknowledged()]


class Gate(Snapshot):
    """Blocks lookups, and with them the source, until ``opened`` is set."""

    __slots__ = ("opened", "reached")

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.reached = threading.Event(), threading.Event()

    def select(self, query: Query) -> Selection:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        return super().select(query)


@pytest.mark.needs("root")
@pytest.mark.parametrize(("connections", "pairs"), [(1, 1000), (16, 200)])
def test_flood_of_one_user_does_not_delay_another(
    registered: Registered, public_directory: Path, connections: int, pairs: int
) -> None:
    ended: list[int] = []
    path, start = public_directory / "handshake.sock", client_start(NAME, b"h3")
    with ExitStack() as stack:
        service = stack.enter_context(
            served(registered, path, Limits(), observe=lambda request, *_: ended.append(request.caller.uid))
        )
        holding = stack.enter_context(HandshakeChannel(path))
        with user(54321):
            flooding = [stack.enter_context(HandshakeChannel(path)) for _ in range(connections)]
        victim = stack.enter_context(HandshakeChannel(path))
        for one in (*flooding, victim):  # all are there
            hello = client_hello(one, 1, start)
            one.send(push_cancel(1))
            one.outcome(1)
        ended.clear()
        service.snapshot = gate = Gate()
        holding.send(push_lookup(1, Lookup(client_hello=hello.data)))
        assert gate.reached.wait(PATIENCE)
        for one in flooding:
            one.send(*(push_start(n, start) + push_cancel(n) for n in range(pairs)))
        victim.send(push_start(2, start) + push_cancel(2))
        gate.opened.set()
        assert victim.outcome(2).status == Status.CANCELED
        assert ended.index(0) < connections * pairs / 4


class Ticketed(Registered):
    """Registrations whose servers issue a session ticket."""

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        keys = RotatingTicketKeys([(0.0, bytes(32))], 1e12)
        return replace(super().answer(request, selection, transport_parameters), tickets=Tickets(keys))


def test_handshakes_waiting_for_tickets_are_limited(authority: Authority, issue: Issue, path: Path) -> None:
    ticketed = Ticketed(authority)
    ticketed.add("unix", (KeyType.ECDSA_P256, issue(NAME)))
    waiting = client_start(NAME, b"h3", ticket_seconds=60)
    with served(ticketed, path, Limits(handshakes=3)), HandshakeChannel(path) as channel:
        received = []
        for number in range(0, 12, 2):
            client, server = shake_hands(channel, number, number + 1, waiting, server_start())
            assert (client.status, server.status) == (Status.OK, Status.OK)
            (ticket,) = channel.inbox[number + 1]
            assert isinstance(ticket, CryptoData)
            channel.send(push_crypto(number, ticket, ack=True))
            received.append([type(one) for one in channel.until(number, Acknowledged)] == [SessionTicket, Acknowledged])
        assert received == [True, True, True, False, False, False]
        channel.send(push_start(0, server_start(), ack=True))  # the number of a finished handshake is free
        assert channel.until(0, Acknowledged) == [Acknowledged()]


class FaultySnapshot(Snapshot):
    """A snapshot that raises an unexpected error."""

    __slots__ = ()

    def select(self, query: Query) -> Selection:
        raise ZeroDivisionError


class Faulty(Registered):
    """Registrations that raise an unexpected error."""

    @property
    def snapshot(self) -> Snapshot:
        return FaultySnapshot(self.registrations)


def test_unexpected_error_does_not_silence_the_connection(authority: Authority, path: Path) -> None:
    with served(Faulty(authority), path, Limits()), HandshakeChannel(path) as channel:
        hello = client_hello(channel, 1, client_start(NAME, b"h3")).data
        channel.send(push_start(2, server_start(), ack=True), push_lookup(3, Lookup(client_hello=hello)))
        assert channel.until(2, Acknowledged) == [Acknowledged()]
        channel.send(push_cancel(2))
        assert channel.outcome(2).status == Status.CANCELED


def test_closing_source_ends_all_handshakes_with_done(registered: Registered, path: Path) -> None:
    with ExitStack() as stack:
        with served(registered, path, Limits()):
            channel = stack.enter_context(HandshakeChannel(path))
            channel.send(push_start(1, server_start(), ack=True))
            channel.until(1, Acknowledged)
        assert channel.outcome(1).status == Status.SHUTTING_DOWN
        assert channel.closed()
