"""JSON messages with file descriptors: round trips, and malformed packets whose descriptors are closed."""

import os
import socket
from collections.abc import Iterator

import pytest

from handshaked.errors import RefusedError
from handshaked.wire.attached import close_all
from handshaked.wire.json_packets import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    first_that_fit,
    receive_message,
    receive_packet,
    send_message,
)
from tests.descriptors import none_left_open

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two connected sockets; check that no descriptor is left open."""
    with none_left_open():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE)
        with ours, theirs:
            yield ours, theirs


def test_message_survives_a_round_trip_with_its_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    message = {"command": "show", "name": "wéb", "list": [1, None, True]}
    send_message(ours, message, (ours.fileno(), theirs.fileno()))
    received = receive_message(theirs)
    assert received is not None
    assert received[0] == message
    assert len(received[1]) == 2
    assert not any(map(os.get_inheritable, received[1]))
    close_all(received[1])


def test_closed_connection_has_no_message(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    assert receive_message(theirs) is None


def test_long_message_is_refused_before_it_is_sent(pair: Pair) -> None:
    with pytest.raises(RefusedError, match=f"exceeds the limit of {MAX_MESSAGE}"):
        send_message(pair[0], {"text": "x" * MAX_MESSAGE})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (MAX_MESSAGE + 1), "too long"),
    ],
    ids=["text", "bytes", "list", "nested", "long"],
)
def test_malformed_packet_is_refused_and_its_descriptors_closed(pair: Pair, packet: bytes, reason: str) -> None:
    ours, theirs = pair
    socket.send_fds(ours, [packet], [ours.fileno()])
    with pytest.raises(RefusedError, match=reason):
        receive_message(theirs)


def test_too_many_descriptors_are_received_to_be_closed(pair: Pair) -> None:
    ours, theirs = pair
    socket.send_fds(ours, [b"{}"], [ours.fileno()] * (MAX_DESCRIPTORS + 1))
    packet = receive_packet(theirs)
    assert len(packet.descriptors) == MAX_DESCRIPTORS + 1
    with pytest.raises(RefusedError, match="too many file descriptors"):
        packet.message()
    close_all(packet.descriptors)


def test_first_items_that_fit_are_at_least_one() -> None:
    long = "x" * MAX_MESSAGE
    assert first_that_fit([long, "short"]) == [long]
    assert first_that_fit(["short"] * 3) == ["short"] * 3
    assert 0 < len(first_that_fit(["x" * 1000] * 1000)) < MAX_MESSAGE // 1000
