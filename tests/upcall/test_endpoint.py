"""Malformed and unexpected input on the handshake socket."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.errors import Status, WireError
from handshaked.events import CryptoData
from handshaked.model import Level
from handshaked.system.memory import resident_memory
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_cancel, push_crypto, push_start
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import FAMILY, MAX_PACKET, Acknowledged, Command, Lookup
from handshaked.wire.netlink import push_error, push_message
from tests.conftest import Issue
from tests.handshake_channel import (
    GoneError,
    HandshakeChannel,
    client_start,
    eventually,
    server_start,
    shake_hands,
)
from tests.upcall.conftest import MALFORMED, NAME


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
        assert os.read(reading, 1) == b""  # end of file: the worker has closed its copy
    finally:
        os.close(reading)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


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
        memory = resident_memory(worker)
        send(bad_packets(10_000))
        assert daemon.worker_pids() == [worker]
        assert eventually(lambda: descriptors(worker) == count)
        assert resident_memory(worker) < memory + (8 << 20)
        with HandshakeChannel(daemon.handshake_socket) as channel:
            client, server = shake_hands(channel, 1, 2, client_start(NAME, b"h3"), server_start())
            assert (client.status, server.status) == (Status.OK, Status.OK)
        status = daemon.ask("status")
        assert status["worker_restarts"] == 0
        assert sum(one["in_flight"] for one in status["workers"]) == 0
