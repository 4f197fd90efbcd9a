"""ClientHellos from Initial packets that are split, reordered, repeated, padded or mixed with others."""

import random
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, PeerError
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import VERSION_1, VERSION_2
from handshaked.quic.protection import InitialKeys
from tests.quic.initials import DCID, PING, SCID, client_hello, crypto, initial, initials

HELLO = client_hello()


def assembled(datagrams: list[bytes], limit: int = 65540) -> bytes | None:
    """Return the first ClientHello that `datagrams` complete."""
    assembler = ClientHelloAssembler(limit)
    for datagram in datagrams:
        found = assembler.receive(datagram)
        if found is not None:
            return found
    return None


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    """Generate datagrams that contain HELLO: overlapping frames in any order, with padding, pings and repetitions."""
    cuts = sorted(draw(st.sets(st.integers(1, len(HELLO) - 1), max_size=12)))
    edges = [0, *cuts, len(HELLO)]
    frames = []
    for start, end in pairwise(edges):
        longer = min(len(HELLO), end + draw(st.integers(0, 40)))
        frames.append(crypto(start, HELLO[start:longer]))
    frames += draw(st.lists(st.sampled_from([*frames, PING, bytes(3), b"\x02\x01\x00\x00\x01"]), max_size=6))
    frames = draw(st.permutations(frames))
    datagrams: list[bytes] = [b""]
    for frame in frames:
        if len(datagrams[-1]) + len(frame) > 1100 or draw(st.booleans()):
            datagrams.append(b"")
        datagrams[-1] += frame
    return datagrams


@given(splits(), st.sampled_from([VERSION_1, VERSION_2]))
def test_any_split_gives_the_same_hello(pieces: list[bytes], version: int) -> None:
    datagrams = initials(pieces, version=version)
    assert assembled(datagrams) == HELLO
    assert assembled([*datagrams[::-1]]) == HELLO


@given(splits(), st.data())
def test_nothing_is_returned_while_a_byte_is_missing(pieces: list[bytes], data: st.DataObject) -> None:
    missing = data.draw(st.integers(0, len(HELLO) - 1))
    frames = [crypto(0, HELLO[:missing]), crypto(missing + 1, HELLO[missing + 1 :])]
    assert assembled(initials(frames)) is None
    assert assembled(initials([*frames, *pieces])) == HELLO


@given(splits(), st.binary(max_size=1500), st.integers(0, 2**32))
def test_packets_of_others_are_ignored(pieces: list[bytes], junk: bytes, seed: int) -> None:
    chance = random.Random(seed)
    genuine = initials(pieces)
    spoiled = bytearray(chance.choice(genuine))
    spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    others = [junk, bytes(spoiled), initial(crypto(0, b"\1\0\0\1x"), dcid=b"another one")]
    mixed = [genuine[0]]
    for datagram in genuine[1:]:
        mixed += [chance.choice(others), datagram]
    assert assembled([*mixed]) == HELLO


@given(st.binary(max_size=1500))
def test_datagrams_of_any_bytes_are_ignored(datagram: bytes) -> None:
    assert assembled([datagram, initial(crypto(0, HELLO))]) == HELLO


@given(st.binary(min_size=1, max_size=1100))
def test_frames_of_any_bytes_raise_only_peer_errors(frames: bytes) -> None:
    with suppress(PeerError):
        assembled([initial(frames)])


def test_coalesced_packets_are_all_read() -> None:
    first = _unpadded(crypto(0, HELLO[:100]), 0)
    assert assembled([first + initial(crypto(100, HELLO[100:]), 1)]) == HELLO


def test_anything_may_follow_the_initial() -> None:
    handshake = b"\xe0\0\0\0\1\x09to server\x09of client\x05abcde"
    assert assembled([_unpadded(crypto(0, HELLO), 0) + handshake + b"\x40short"]) == HELLO


@pytest.mark.parametrize(
    ("frames", "alert"),
    [
        (crypto(0, HELLO[:50]) + crypto(40, b"x" * 20), Alert.ILLEGAL_PARAMETER),  # inconsistent
        (crypto(0, b"\2" + HELLO[1:]), Alert.UNEXPECTED_MESSAGE),  # no ClientHello
        (crypto(0, b"\1\1\0\1"), Alert.ILLEGAL_PARAMETER),  # longer than the limit
        (crypto(70000, b"x"), Alert.DECODE_ERROR),
        (b"\x06\x00\x44\xff" + bytes(10), Alert.DECODE_ERROR),  # truncated
        (b"\x08\x00", Alert.DECODE_ERROR),  # a STREAM frame
        (b"\x1c\x00\x00\x00", Alert.USER_CANCELED),
        (b"\x02\x01\x00\x7f\xff\x00", Alert.DECODE_ERROR),  # an ACK with many ranges
        (crypto(0, b"") * 1100, Alert.DECODE_ERROR),
    ],
    ids=["contradiction", "not-a-hello", "too-long", "too-far", "cut-off", "stream", "close", "ack", "too-many"],
)
def test_protocol_violations_are_refused(frames: bytes, alert: Alert) -> None:
    with pytest.raises(PeerError) as caught:
        assembled([initial(frames)])
    assert caught.value.alert is alert


def test_limit_is_enforced() -> None:
    assert assembled([initial(crypto(0, HELLO))], limit=len(HELLO)) == HELLO
    with pytest.raises(PeerError):
        assembled([initial(crypto(0, HELLO))], limit=len(HELLO) - 1)


def _unpadded(frames: bytes, number: int) -> bytes:
    """Return an Initial packet without padding, to be coalesced with others."""
    header = b"\xc3\0\0\0\1" + bytes([len(DCID)]) + DCID + bytes([len(SCID)]) + SCID + b"\0"
    return InitialKeys(VERSION_1, DCID).seal(header, number, frames)
