"""ClientHellos from Initial packets: the RFCs' examples, aioquic's packets, and attacks."""

import random
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_CLIENT_HELLO
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import InitialPacket, pull_initials
from handshaked.quic.protection import InitialKeys
from tests.quic.datagrams import CID, V1, V2, Frame, datagram, datagrams, sealed

VECTORS = Path(__file__).parents[1] / "vectors"


def assembled(parts: Iterable[bytes]) -> bytes | None:
    """Return the first complete ClientHello in `parts`."""
    assembler = ClientHelloAssembler()
    return next((message for part in parts if (message := assembler.receive(part)) is not None), None)


def message(size: int, seed: int = 1) -> bytes:
    """Return a handshake message with a body of `size` different bytes."""
    return b"\1" + size.to_bytes(3) + random.Random(seed).randbytes(size)


@pytest.mark.parametrize("name", ["rfc9001-a2-client-initial", "rfc9369-a2-client-initial"])
def test_example_of_the_rfc_is_opened(name: str) -> None:
    packet = bytes.fromhex((VECTORS / f"{name}.hex").read_text())
    found = assembled([packet])
    assert found is not None
    assert found[:10].hex() == "010000ed0303ebf8fa56"
    assert b"example.com" in found
    (initial,) = pull_initials(packet)
    assert (initial.destination_cid, initial.source_cid, initial.token) == (CID, b"", b"")
    assert initial.version == (V1 if "9001" in name else V2)


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("size", [0, 1, 300, 1800, 5000])
def test_message_in_any_number_of_datagrams_is_assembled(version: int, size: int) -> None:
    sent = message(size)
    parts = datagrams(sent, version=version)
    assert assembled(parts) == sent
    assert assembled(parts[:-1]) is None


@pytest.mark.parametrize("version", [V1, V2])
def test_initials_of_aioquic_are_assembled(version: int) -> None:
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[f"protocol-{number}" for number in range(150)],  # more than a datagram
        server_name="a.example.com",
        original_version=version,
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("192.0.2.1", 443), now=0.0)
    sent = [data for data, _ in connection.datagrams_to_send(now=0.0)]
    assert len(sent) > 1
    found = assembled(sent)
    assert found is not None
    assert b"a.example.com" in found
    assert assembled(reversed(sent)) == found


@st.composite
def disorder(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Generate a message, and datagrams with all of it: split, reordered, overlapping, repeated, with other frames."""
    sent = message(draw(st.integers(0, 3000)), draw(st.integers(0, 100)))
    cuts = sorted({0, len(sent), *draw(st.lists(st.integers(0, len(sent)), max_size=12))})
    pieces = []
    for start, end in pairwise(cuts):
        for place in range(start, end, 500):
            until = min(place + 500, end)
            before, behind = draw(st.integers(0, 40)), draw(st.integers(0, 40))
            first = max(0, place - before)
            pieces.append((first, sent[first : until + behind]))
    pieces += draw(st.lists(st.sampled_from(pieces), max_size=5))
    pieces = draw(st.permutations(pieces))
    parts = []
    for number, piece in enumerate(pieces):
        others: list[Frame] = draw(st.lists(st.sampled_from(["ping", "padding", "ack"]), max_size=4))
        frames: list[Frame] = [*others[:2], piece, *others[2:]]
        parts.append(datagram(frames, packet_number=number))
    return sent, parts


@given(disorder())
def test_crypto_frames_are_assembled_in_any_order_and_number(made: tuple[bytes, list[bytes]]) -> None:
    sent, parts = made
    assert assembled(parts) == sent


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_damaged_datagram_is_ignored_or_a_peer_error(seed: int) -> None:
    chance = random.Random(seed)
    sent = message(300)
    assembler = ClientHelloAssembler()
    for part in (*datagrams(sent, 200), *datagrams(sent, 200)):
        spoiled = bytearray(part)
        for _ in range(chance.randrange(3)):
            spoiled[chance.randrange(min(len(spoiled), 60))] = chance.randrange(256)
        try:
            found = assembler.receive(bytes(spoiled[: chance.choice((len(spoiled), chance.randrange(1200)))]))
        except PeerError:
            continue
        assert found in (None, sent)


@given(st.binary(max_size=100))
def test_any_bytes_are_ignored_or_a_peer_error(data: bytes) -> None:
    for prefix in (b"", b"\xc0\0\0\0\1", b"\xd0" + V2.to_bytes(4)):
        with suppress(PeerError):
            assert ClientHelloAssembler().receive(prefix + data) is None


@given(
    st.lists(
        st.sampled_from([bytes(3), b"\1", b"\2", b"\3", b"\6", b"\x1c", b"\0\5", b"\x40\5"]) | st.binary(max_size=9)
    )
)
def test_any_frames_are_parsed_or_a_peer_error(frames: list[bytes]) -> None:
    # A peer with valid keys may send invalid frames.
    with suppress(PeerError):
        ClientHelloAssembler().receive(sealed(b"".join(frames)))


@pytest.mark.parametrize(
    ("frames", "reason", "alert"),
    [
        (b"\x1c\0\0\0", "closed the connection", Alert.USER_CANCELED),
        (b"\x08\0\0\0", "frame type 0x8 in an Initial", Alert.DECODE_ERROR),
        (b"\6\0\x40\x99abc", "truncated QUIC packet", Alert.DECODE_ERROR),
        (b"\2\0\0\x44\0\0\0", "more than 1024 frames", Alert.DECODE_ERROR),
        (b"\1\2\0\0\2\0\0", "truncated QUIC packet", Alert.DECODE_ERROR),
    ],
)
def test_forbidden_or_malformed_frames_are_refused(frames: bytes, reason: str, alert: Alert) -> None:
    error = refusal([sealed(frames)])
    assert (reason in error.reason, error.alert) == (True, alert)


def test_ack_with_ecn_counts_is_skipped() -> None:
    assert assembled([sealed(b"\3\0\0\0\0\1\1\1\6\0\5\1\0\0\1x")]) == b"\1\0\0\1x"


def refusal(parts: Iterable[bytes]) -> PeerError:
    with pytest.raises(PeerError) as caught:
        assembled(parts)
    return caught.value


def test_protocol_violations_are_refused() -> None:
    assert "is larger than" in refusal([datagram([(70_000, b"far")])]).reason
    assert "is larger than" in refusal([datagram([(2**40, b"far")])]).reason
    assert refusal([datagram([(0, b"\1\xff\xff\xff")])]).alert is Alert.ILLEGAL_PARAMETER
    many = [datagram([(2 * number, b"x")], packet_number=number) for number in range(1, 1026)]
    assert "more than 1024 frames" in refusal(many).reason


def test_number_of_overlapping_frames_is_limited() -> None:
    parts = [datagram([(number, bytes(15_000))], packet_number=number, size=16_000) for number in range(1, 1200)]
    assert "more than 1024 frames" in refusal(parts).reason


@pytest.mark.parametrize("frames", [b"\1" * 1025, b"\1\0" * 1025, b"\2\0\0\x43\xff\0" + bytes(2046) + b"\1"])
def test_frames_of_every_type_are_limited(frames: bytes) -> None:
    """A datagram on the handshake socket may have 64 KiB of them: 55 ms of work that nothing interrupts."""
    assert "more than 1024 frames" in refusal([sealed(frames)]).reason


def test_large_message_is_accepted_up_to_the_limit() -> None:
    sent = message(MAX_CLIENT_HELLO)
    assert assembled(datagrams(sent, 1100, size=1400)) == sent
    assert refusal(datagrams(message(MAX_CLIENT_HELLO + 1), 1100, size=1400)).alert is Alert.ILLEGAL_PARAMETER


def test_packets_of_another_connection_are_ignored() -> None:
    first, second = datagrams(message(1500))
    other = datagram([(900, b"evil")], cid=b"anothercid", packet_number=1)
    assembler = ClientHelloAssembler()
    assert assembler.receive(first) is None
    assert assembler.receive(other) is None
    assert assembler.receive(second) == message(1500)


def test_keys_remain_for_a_second_flight_to_the_server_connection_id() -> None:
    sent = message(1200)
    first = datagram([(0, sent[:600])])
    second = datagram([(600, sent[600:])], packet_number=1, peer_cid=b"servers")
    assert assembled([first, second]) == sent


def test_retry_token_is_skipped() -> None:
    part = datagram([(0, message(100))], token=b"token" * 20)
    assert assembled([part]) == message(100)
    assert next(pull_initials(part)).token == b"token" * 20


def test_other_packets_around_the_initial_are_ignored() -> None:
    part = datagram([(0, message(100))], size=1200)
    (initial,) = pull_initials(part)
    zero_rtt = b"\xd0" + part[1:5] + b"\x08" + CID + b"\0" + b"\x40\x20" + bytes(32)
    assert assembled([initial.packet + zero_rtt]) == message(100)
    assert assembled([zero_rtt + initial.packet]) == message(100)
    assert assembled([initial.packet + bytes(100)]) == message(100)
    assert assembled([initial.packet + b"\x40short header"]) == message(100)


@pytest.mark.parametrize("version", [0, 2, 0xFF00001D, 0x0A1A2A3A])
def test_other_versions_are_ignored(version: int) -> None:
    part = datagram([(0, message(100))])
    assert list(pull_initials(part[:1] + version.to_bytes(4) + part[5:])) == []


def test_keys_depend_on_connection_id_and_version() -> None:
    (initial,) = pull_initials(datagram([(0, message(100))]))
    assert InitialKeys(V1, CID).open(initial)
    for keys in (InitialKeys(V2, CID), InitialKeys(V1, CID + b"x")):
        assert keys.open(initial) is None


def test_large_packet_numbers_are_not_truncated() -> None:
    assert assembled([datagram([(0, message(50))], packet_number=1000)]) == message(50)


@pytest.mark.parametrize("versions", [(V1,), (V1, V2)])
def test_forged_packets_cost_few_keys(monkeypatch: pytest.MonkeyPatch, versions: tuple[int, ...]) -> None:
    """Deriving keys is most of the work for a datagram, and anyone can fill one with packets that do not open."""
    derived: list[tuple[int, bytes]] = []
    opened = 0

    class Counted(InitialKeys):
        def __init__(self, version: int, destination_cid: bytes) -> None:
            derived.append((version, destination_cid))
            super().__init__(version, destination_cid)

        def open(self, packet: InitialPacket) -> bytes | None:
            nonlocal opened
            opened += 1
            return super().open(packet)

    monkeypatch.setattr("handshaked.quic.initial.InitialKeys", Counted)
    assembler = ClientHelloAssembler()
    assert assembler.receive(b"".join(forged(versions[n % len(versions)]) for n in range(41))) is None
    assert len(derived) <= (1 if len(versions) == 1 else 4)
    assert opened == 4
    sent = message(100)
    assert assembler.receive(forged(V1) * 3 + datagram([(0, sent)])) == sent
    assert assembler.receive(forged(V1) * 41) == sent  # the keys remain
    assert opened == 4 + 4 + 4


def test_few_packets_of_a_datagram_are_opened() -> None:
    sent = message(100)
    pings = b"".join(sealed(b"\1\1\1\1") for _ in range(15))
    assert assembled([pings + datagram([(0, sent)])]) == sent
    assembler = ClientHelloAssembler()
    assert assembler.receive(pings + sealed(b"\1\1\1\1") + datagram([(0, sent)])) is None
    assert assembler.receive(datagram([(0, sent)])) == sent


def forged(version: int) -> bytes:
    """Return a short Initial packet of CID that no key opens."""
    first = b"\xd3" if version == V2 else b"\xc3"
    return first + version.to_bytes(4) + bytes([len(CID)]) + CID + b"\0\0\x20" + bytes(32)
