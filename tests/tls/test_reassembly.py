"""Reassembly of handshake messages, and its limits."""

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_CLIENT_HELLO, MAX_HANDSHAKE_MESSAGE, Level
from handshaked.tls.reassembly import MessageReassembler

MESSAGES = [b"\x01\0\0\0", b"\x02\0\0\x03abc", b"\x14\0\x01\0" + bytes(256)]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 1000])
def test_message_is_reassembled_from_pieces(size: int) -> None:
    reassembler = MessageReassembler(Level.INITIAL)
    stream = b"".join(MESSAGES)
    pulled = []
    for at in range(0, len(stream), size):
        reassembler.receive(Level.INITIAL, stream[at : at + size])
        while (message := reassembler.pull()) is not None:
            pulled.append(message)
    assert pulled == MESSAGES


def test_next_type_is_known_from_the_first_byte() -> None:
    reassembler = MessageReassembler(Level.INITIAL)
    assert reassembler.next_type() is None
    reassembler.receive(Level.INITIAL, b"\x0b")
    assert reassembler.next_type() == 11
    assert reassembler.pull() is None


@pytest.mark.parametrize(
    ("kind", "limit", "alert"),
    [
        (1, MAX_CLIENT_HELLO, Alert.ILLEGAL_PARAMETER),
        (11, MAX_HANDSHAKE_MESSAGE, Alert.BAD_CERTIFICATE),
        (25, MAX_HANDSHAKE_MESSAGE, Alert.BAD_CERTIFICATE),
        (20, MAX_HANDSHAKE_MESSAGE, Alert.DECODE_ERROR),
    ],
)
def test_message_over_the_limit_is_refused(kind: int, limit: int, alert: Alert) -> None:
    reassembler = MessageReassembler(Level.HANDSHAKE)
    reassembler.receive(Level.HANDSHAKE, bytes([kind]) + (limit + 1).to_bytes(3))
    with pytest.raises(PeerError) as caught:
        reassembler.pull()
    assert caught.value.alert is alert


def test_message_of_the_largest_length_is_accepted() -> None:
    reassembler = MessageReassembler(Level.HANDSHAKE)
    for kind, length in ((1, MAX_CLIENT_HELLO), (11, MAX_HANDSHAKE_MESSAGE)):
        message = bytes([kind]) + length.to_bytes(3) + bytes(length)
        reassembler.receive(Level.HANDSHAKE, message)
        assert reassembler.pull() == message


def test_only_the_expected_level_is_accepted() -> None:
    reassembler = MessageReassembler(Level.INITIAL)
    with pytest.raises(PeerError) as caught:
        reassembler.receive(Level.HANDSHAKE, b"")
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE
    reassembler.expect(Level.HANDSHAKE)
    reassembler.receive(Level.HANDSHAKE, b"\x01")
    reassembler.expect(Level.HANDSHAKE)
    with pytest.raises(PeerError) as caught:
        reassembler.expect(Level.APPLICATION)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE
