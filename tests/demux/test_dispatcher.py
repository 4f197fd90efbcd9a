"""Decisions about datagrams of unknown flows, without sockets or a clock."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.demux.dispatcher import Bounds, Buffered, Decision, Deliver, Dispatcher, Drop, Existing, Reply
from handshaked.errors import Alert
from handshaked.quic.packets import SMALLEST_INITIAL, VERSIONS, pull_initials, pull_long_header
from handshaked.quic.protection import InitialKeys
from handshaked.registry.registration import Registration
from handshaked.registry.settings import Policy
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.addresses import Address
from handshaked.wire.demux import RETRY_TOKEN
from tests.quic.initials import DCID, SCID, client_hello, crypto, initial, initials

PEER: Address = ("192.0.2.1", 50000)
HELLO = client_hello("one.example.com", ["smb", "h3"])
HALVES = [crypto(0, HELLO[:150]), crypto(150, HELLO[150:])]


def registration(name: str, *alpns: bytes, deliver: str = "accept", identity: int = 1) -> Registration:
    """Return a registration of ``name.example.com``."""
    return Registration(
        id=identity,
        name=name,
        owner=1000,
        server_names=(f"{name}.example.com",),
        alpns=alpns,
        credentials=(),
        policy=Policy(deliver=deliver),
    )


SNAPSHOT = Snapshot([registration("one", b"h3")])
FORWARDING = Snapshot([registration("one", b"h3", deliver="forward 127.0.0.1:4433")])
BESIDE_FORWARDING = Snapshot(
    [registration("one", b"h3"), registration("two", b"h3", deliver="forward 127.0.0.1:4433", identity=2)]
)


def dispatcher(snapshot: Snapshot = SNAPSHOT, **bounds: float) -> Dispatcher:
    """Return a dispatcher with the given bounds."""
    return Dispatcher(Bounds(**bounds), snapshot)  # type: ignore[arg-type] # ints and floats, by name


def test_complete_client_hello_is_delivered_without_state() -> None:
    dispatch = dispatcher()
    decision = dispatch.receive(initial(crypto(0, HELLO)), PEER, 0.0)
    assert isinstance(decision, Deliver)
    assert (decision.registration.name, decision.alpn, decision.server_name) == ("one", b"h3", "one.example.com")
    assert len(decision.datagrams) == 1
    assert (len(dispatch), dispatch.bytes_kept) == (0, 0)


def test_incomplete_client_hello_is_buffered() -> None:
    dispatch = dispatcher()
    first, second = initials(HALVES)
    early = b"\xd0" + first[1:]  # packet type 0-RTT
    assert dispatch.receive(second, PEER, 0.0) == Buffered()
    assert dispatch.receive(early, PEER, 0.0) == Buffered()
    assert len(dispatch) == 1
    decision = dispatch.receive(first, PEER, 0.0)
    assert isinstance(decision, Deliver)
    assert decision.datagrams == (second, early, first)
    assert (len(dispatch), dispatch.bytes_kept) == (0, 0)


def test_flows_of_one_address_are_distinguished_by_connection_id() -> None:
    dispatch = dispatcher()
    mixed = [initials(HALVES, dcid=dcid) for dcid in (b"first one", b"second one")]
    for datagrams in mixed:
        assert dispatch.receive(datagrams[0], PEER, 0.0) == Buffered()
    for datagrams in mixed:
        decision = dispatch.receive(datagrams[1], PEER, 0.0)
        assert isinstance(decision, Deliver)
        assert decision.datagrams == tuple(datagrams)


@pytest.mark.parametrize(
    ("name", "alpns", "alert"),
    [
        ("two.example.com", ["h3"], Alert.UNRECOGNIZED_NAME),
        ("one.example.com", ["smb"], Alert.NO_APPLICATION_PROTOCOL),
        (None, ["h3"], Alert.MISSING_EXTENSION),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", [0, 100])
def test_refused_client_gets_the_alert(
    name: str | None, alpns: list[str], alert: Alert, version: int, cut: int
) -> None:
    dispatch = dispatcher()
    hello = client_hello(name, alpns)
    pieces = [crypto(0, hello[:cut]), crypto(cut, hello[cut:])] if cut else [crypto(0, hello)]
    decisions = [dispatch.receive(datagram, PEER, 0.0) for datagram in initials(pieces, version=version)]
    answer = decisions[-1]
    assert isinstance(answer, Reply)
    assert answer.reason == alert.label
    (packet,) = pull_initials(answer.datagram)
    assert (packet.version, packet.destination_cid) == (version, SCID)
    frames = InitialKeys(version, DCID, server=True).open(packet)
    assert frames is not None
    assert frames.startswith(b"\x1c" + (0x4000 | 0x100 + alert).to_bytes(2) + b"\x06")
    assert len(answer.datagram) <= 3 * SMALLEST_INITIAL
    assert len(dispatch) == 0


def test_unsupported_version_is_negotiated() -> None:
    datagram = bytearray(initial(crypto(0, HELLO)))
    datagram[1:5] = b"\xba\xba\xba\xba"
    answer = dispatcher().receive(bytes(datagram), PEER, 0.0)
    assert isinstance(answer, Reply)
    header = pull_long_header(answer.datagram)
    assert header is not None
    assert (header.version, header.destination_cid, header.source_cid) == (0, SCID, DCID)
    assert VERSIONS[0].to_bytes(4) in answer.datagram[-12:]
    assert dispatcher().receive(bytes(datagram[:1199]), PEER, 0.0) == Drop("version")
    assert dispatcher().receive(answer.datagram + bytes(1200), PEER, 0.0) == Drop("version")


@pytest.mark.parametrize(
    ("datagram", "decision"),
    [
        (b"", Drop("malformed")),
        (b"\xc0\0\0\0\1", Drop("malformed")),
        (b"\xc0\0\0\0\1\xff" + bytes(1300), Drop("malformed")),
        (initial(crypto(0, HELLO))[:1199], Drop("small")),
        (b"\x40" + bytes(30), Existing(None)),
        (b"\xe0\0\0\0\1\4abcd\0" + bytes(30), Existing(b"abcd")),
        (b"\xc0\0\0\0\1\4abcd\0\0\x44\x00" + bytes(1300), Existing(b"abcd")),  # an Initial that cannot be decrypted
    ],
)
def test_datagrams_that_start_no_connection(datagram: bytes, decision: Decision) -> None:
    assert dispatcher().receive(datagram, PEER, 0.0) == decision


_ARBITRARY = st.one_of(
    st.binary(max_size=1400),
    st.binary(min_size=1150, max_size=1150).map(initial),
    st.tuples(st.sampled_from([0, 1, 2, *VERSIONS]), st.binary(max_size=600), st.integers(0, 1300)).map(
        lambda parts: b"\xc3" + parts[0].to_bytes(4) + parts[1] + bytes(parts[2])
    ),
)


@given(_ARBITRARY, st.sampled_from([0, 2000]))
def test_arbitrary_datagrams_neither_raise_nor_amplify(datagram: bytes, retry_from: int) -> None:
    dispatch = dispatcher(retry_from=retry_from)
    answer = dispatch.receive(datagram, PEER, 0.0)
    if isinstance(answer, Reply):
        assert len(datagram) >= SMALLEST_INITIAL
        assert len(answer.datagram) <= 3 * len(datagram)
    dispatch = dispatcher()
    dispatch.receive(datagram, PEER, 0.0)
    assert isinstance(dispatch.receive(initial(crypto(0, HELLO), dcid=b"another"), PEER, 0.0), Deliver)


def test_incomplete_flows_expire() -> None:
    dispatch = dispatcher(seconds=5.0)
    first, second = initials(HALVES)
    dispatch.receive(first, PEER, 0.0)
    assert dispatch.expire(4.9) == 0
    assert dispatch.expire(5.0) == 1
    assert (len(dispatch), dispatch.bytes_kept) == (0, 0)
    assert dispatch.receive(second, PEER, 5.0) == Buffered()


def strangers() -> Iterator[tuple[Address, bytes]]:
    """Yield clients with half a ClientHello, each with its own address."""
    for number in range(1 << 16):
        yield (f"198.51.{number >> 8}.{number & 255}", 1024), initial(HALVES[0], dcid=os.urandom(8))


def test_number_of_flows_is_bounded_and_the_oldest_are_dropped() -> None:
    dispatch = dispatcher(flows=10)
    first, second = initials(HALVES)
    dispatch.snapshot = FORWARDING  # disables Retry
    dispatch.receive(first, PEER, 0.0)
    for (peer, datagram), _ in zip(strangers(), range(9), strict=False):
        assert dispatch.receive(datagram, peer, 0.0) == Buffered()
    assert isinstance(dispatch.receive(second, PEER, 0.0), Deliver)
    dispatch.receive(first, PEER, 0.0)
    for (peer, datagram), _ in zip(strangers(), range(20), strict=False):
        assert dispatch.receive(datagram, peer, 0.0) == Buffered()
    assert len(dispatch) == 10
    assert dispatch.receive(second, PEER, 0.0) == Buffered()


def test_flows_per_source_are_bounded() -> None:
    dispatch = dispatcher(flows_per_source=3)
    for port in range(3):
        assert dispatch.receive(initial(HALVES[0]), ("192.0.2.9", port), 0.0) == Buffered()
    assert dispatch.receive(initial(HALVES[0]), ("192.0.2.9", 4), 0.0) == Drop("source")
    assert dispatch.receive(initial(HALVES[0]), PEER, 0.0) == Buffered()
    v6 = [("2001:db8::1", 1, 0, 0), ("2001:db8::2", 1, 0, 0), ("2001:db8::3", 1, 0, 0), ("2001:db8:0:0:1::", 1, 0, 0)]
    assert [dispatch.receive(initial(HALVES[0]), peer, 0.0) for peer in v6] == [Buffered()] * 3 + [Drop("source")]
    assert dispatch.receive(initial(HALVES[0]), ("2001:db8:0:1::1", 1, 0, 0), 0.0) == Buffered()
    dispatch.expire(100.0)
    assert dispatch.receive(initial(HALVES[0]), ("192.0.2.9", 4), 100.0) == Buffered()


def test_reassembly_memory_of_distant_fragments_is_counted() -> None:
    dispatch = dispatcher(total_bytes=20 * 17_000)
    for (peer, _), _ in zip(strangers(), range(100), strict=False):
        assert dispatch.receive(initial(crypto(15_000, b"far")), peer, 0.0) == Buffered()
    assert len(dispatch) == 20
    assert 20 * 15_000 < dispatch.bytes_kept <= 20 * 17_000


def test_bytes_per_flow_are_bounded() -> None:
    dispatch = dispatcher(flow_bytes=3000)
    datagram = initial(HALVES[0])
    assert [dispatch.receive(datagram, PEER, 0.0) for _ in range(3)] == [Buffered(), Buffered(), Drop("flow_bytes")]
    assert (len(dispatch), dispatch.bytes_kept) == (0, 0)


def test_bytes_of_all_flows_are_bounded() -> None:
    dispatch = dispatcher(total_bytes=20 * 1350)
    for (peer, datagram), _ in zip(strangers(), range(100), strict=False):
        dispatch.receive(datagram, peer, 0.0)
    assert dispatch.bytes_kept <= 20 * 1350
    assert len(dispatch) == 20


def test_client_hello_size_is_bounded() -> None:
    answer = dispatcher(client_hello_bytes=200).receive(initial(crypto(0, HELLO)), PEER, 0.0)
    assert isinstance(answer, Reply)
    assert answer.reason == Alert.DECODE_ERROR.label


@pytest.mark.parametrize("pieces", [[crypto(0, HELLO)], HALVES])
def test_retry_validates_addresses_without_state(pieces: list[bytes]) -> None:
    dispatch = dispatcher(retry_from=0)
    answer = dispatch.receive(initials(pieces)[0], PEER, 0.0)
    assert isinstance(answer, Reply)
    assert (answer.reason, len(dispatch)) == ("retry", 0)
    header = pull_long_header(answer.datagram)
    assert header is not None
    token = answer.datagram[7 + len(SCID) + len(header.source_cid) : -16]
    decisions = [
        dispatch.receive(datagram, PEER, 1.0) for datagram in initials(pieces, dcid=header.source_cid, token=token)
    ]
    assert isinstance(decisions[-1], Deliver)
    assert decisions[-1].original_cid == DCID
    for other, when in ((("192.0.2.2", 50000), 1.0), (PEER, 60.0)):
        again = dispatch.receive(initials(pieces, dcid=header.source_cid, token=token)[0], other, when)
        assert isinstance(again, Reply)
        assert again.reason == "invalid_token"


def test_flood_of_invalid_tokens_is_dropped_unopened() -> None:
    dispatch = dispatcher(invalid_tokens=2)
    forged = initial(crypto(0, HELLO), token=RETRY_TOKEN + bytes(60))
    answers = [dispatch.receive(forged, PEER, now) for now in (1.0, 1.1, 1.2, 1.9, 2.0)]
    assert [isinstance(answer, Reply) for answer in answers] == [True, True, False, False, True]
    assert answers[2] == Existing(DCID)


def test_token_of_another_process_closes_the_connection() -> None:
    """The client would ignore a second Retry, and reject a server that does not know of the first one."""
    answer = dispatcher(retry_from=0).receive(initial(crypto(0, HELLO)), PEER, 0.0)
    assert isinstance(answer, Reply)
    header = pull_long_header(answer.datagram)
    assert header is not None
    token = answer.datagram[7 + len(SCID) + len(header.source_cid) : -16]
    for bound in (0, 1000):
        again = dispatcher(retry_from=bound).receive(
            initial(crypto(0, HELLO), dcid=header.source_cid, token=token), PEER, 1.0
        )
        assert isinstance(again, Reply)
        (packet,) = pull_initials(again.datagram)
        frames = InitialKeys(packet.version, header.source_cid, server=True).open(packet)
        assert frames is not None
        assert frames.startswith(b"\x1c\x0b")


def test_no_packet_is_decrypted_before_address_validation_under_load() -> None:
    undecryptable = initial(crypto(0, HELLO))[:-1] + b"x"
    answer = dispatcher(retry_from=0).receive(undecryptable, PEER, 0.0)
    assert isinstance(answer, Reply)
    assert answer.reason == "retry"
    assert dispatcher(FORWARDING, retry_from=0).receive(undecryptable, PEER, 0.0) == Existing(DCID)


def test_token_of_a_server_is_passed_on() -> None:
    decision = dispatcher().receive(initial(crypto(0, HELLO), token=b"token of a server"), PEER, 0.0)
    assert isinstance(decision, Deliver)
    assert decision.original_cid is None


@pytest.mark.parametrize("pieces", [[crypto(0, HELLO)], HALVES])
def test_forwarded_connections_get_no_retry(pieces: list[bytes]) -> None:
    dispatch = dispatcher(FORWARDING, retry_from=0)
    assert isinstance([dispatch.receive(datagram, PEER, 0.0) for datagram in initials(pieces)][-1], Deliver)


@pytest.mark.parametrize(
    ("times", "kinds"),
    [
        ((0.0, 0.1, 0.2, 1.3, 1.4), [Deliver, Deliver, Reply, Deliver, Deliver]),
        ((0.0, 0.1, 0.2, 0.9, 1.5, 2.3), [Deliver, Deliver, Reply, Reply, Reply, Deliver]),
        (tuple(0.4 * n for n in range(20)), [*[Deliver] * 6, *[Reply] * 14]),
        (tuple(0.6 * n for n in range(20)), [Deliver] * 20),
        ((0.0, 0.1, 0.2, *[3600.0] * 5), [Deliver, Deliver, Reply, Deliver, Deliver, *[Reply] * 3]),
    ],
    ids=["burst", "slower", "flood", "below the limit", "flood after a pause of the process"],
)
def test_retry_from_a_rate_on_until_it_was_below_for_a_second(
    times: tuple[float, ...], kinds: list[type[Decision]]
) -> None:
    dispatch = dispatcher(retry_from=2)
    whole = initial(crypto(0, HELLO))
    assert [type(dispatch.receive(whole, ("192.0.2.1", n), now)) for n, now in enumerate(times)] == kinds


@pytest.mark.parametrize("snapshot", [SNAPSHOT, BESIDE_FORWARDING], ids=["accept", "beside forward"])
def test_client_sent_a_retry_gets_no_other_answer(snapshot: Snapshot) -> None:
    """It repeats its first Initial until the Retry arrives, perhaps only after the busy second."""
    dispatch = dispatcher(snapshot, retry_from=2)
    first = initial(crypto(0, HELLO))
    for port in (1, 2):
        assert isinstance(dispatch.receive(first, ("192.0.2.2", port), 0.0), Deliver)
    answer = dispatch.receive(first, PEER, 0.1)
    for now in (2.2, 3.5, 8.0, 9.9):
        assert isinstance(dispatch.receive(first, ("192.0.2.3", int(now)), now), Deliver), "the port is no longer busy"
        again = dispatch.receive(first, PEER, now + 0.05)
        assert isinstance(again, Reply)
        assert again.reason == "retry"
    assert isinstance(answer, Reply)
    header = pull_long_header(answer.datagram)
    assert header is not None
    token = answer.datagram[7 + len(SCID) + len(header.source_cid) : -16]
    decision = dispatch.receive(initial(crypto(0, HELLO), dcid=header.source_cid, token=token), PEER, 10.0)
    assert isinstance(decision, Deliver)
    assert decision.original_cid == DCID
    assert isinstance(dispatch.receive(first, PEER, 40.0), Deliver)
