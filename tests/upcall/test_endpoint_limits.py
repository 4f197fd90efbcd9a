"""Limits and fairness of the handshake socket: handshakes, connections, rates, unread bytes, unexpected errors."""

import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from handshaked.callers.account import Limits
from handshaked.errors import Status, WireError
from handshaked.events import CryptoData, SessionTicket
from handshaked.model import KeyType, Request
from handshaked.registry.snapshot import Query, Selection, Snapshot
from handshaked.testing.authority import Authority
from handshaked.tls.parameters import ServerParameters, Tickets
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.wire.family import push_cancel, push_crypto, push_start
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import Acknowledged, Lookup
from handshaked.wire.netlink import push_error
from tests.conftest import Issue
from tests.handshake_channel import (
    HandshakeChannel,
    client_hello,
    client_start,
    eventually,
    served,
    server_start,
    shake_hands,
    user,
)
from tests.patience import PATIENCE
from tests.registered import Registered
from tests.upcall.conftest import MALFORMED, NAME


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
