"""The codec of the family: round trips, and each kind of malformed message is refused by name."""

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import FramingError, Status, WireError
from handshaked.events import CryptoData, TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Outcome, Role
from handshaked.wire.family import (
    join_packets,
    pull_from_daemon,
    pull_from_endpoint,
    push_cancel,
    push_close,
    push_crypto,
    push_done,
    push_peer_transport_parameters,
    push_secret,
    push_session_ticket,
    push_start,
    push_transport_parameters,
)
from handshaked.wire.fields import printable
from handshaked.wire.lookup import push_lookup, push_lookup_answer
from handshaked.wire.messages import (
    FAMILY,
    MAX_CRYPTO,
    MAX_PACKET,
    Acknowledged,
    Cancel,
    Command,
    CryptoAttribute,
    Done,
    Lookup,
    LookupAttribute,
    Malformed,
    Refused,
    Start,
    StartAttribute,
    TransportParameters,
    TransportParametersAttribute,
)
from handshaked.wire.netlink import push_ack, push_binary, push_error, push_message, push_string, push_u32
from tests.wire import messages

A = StartAttribute
SERVER = push_u32(A.MESSAGE_TYPE, Role.SERVER)
SUITE = CipherSuite.AES_128_GCM_SHA256


# Round trips.


@given(messages.SEQUENCES, messages.STARTS, st.booleans())
def test_start_survives_a_round_trip(sequence: int, start: Start, ack: bool) -> None:
    assert list(pull_from_endpoint(push_start(sequence, start, ack=ack))) == [(sequence, start, ack)]


@given(messages.SEQUENCES, messages.CRYPTO, st.booleans())
def test_crypto_data_survives_a_round_trip(sequence: int, data: CryptoData, ack: bool) -> None:
    assert list(pull_from_endpoint(push_crypto(sequence, data, ack=ack))) == [(sequence, data, ack)]


@given(messages.SEQUENCES, st.binary(max_size=4096), st.booleans())
def test_own_transport_parameters_survive_a_round_trip(sequence: int, body: bytes, ack: bool) -> None:
    packet = push_transport_parameters(sequence, body, ack=ack)
    assert list(pull_from_endpoint(packet)) == [(sequence, TransportParameters(body), ack)]


@pytest.mark.parametrize(
    ("push", "strategy"),
    [
        (push_crypto, messages.DAEMON_CRYPTO),
        (push_secret, messages.SECRETS),
        (push_peer_transport_parameters, messages.PEER_PARAMETERS),
        (push_session_ticket, messages.TICKETS),
        (push_close, messages.CLOSES),
        (lambda sequence, done: push_done(sequence, done.outcome), messages.DONES),
        (push_lookup_answer, messages.ANSWERS),
    ],
    ids=["crypto", "secret", "peer-transport-parameters", "session-ticket", "close", "done", "lookup-answer"],
)
@given(data=st.data())
def test_messages_of_the_daemon_survive_a_round_trip(
    push: Callable[[int, Any], bytes], strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    sequence, message = data.draw(messages.SEQUENCES), data.draw(strategy)
    assert list(pull_from_daemon(push(sequence, message))) == [(sequence, message)]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (push_crypto(1, CryptoData(Level.EARLY, b"")), "level: is early data"),
        (push_secret(1, TrafficSecret(Level.INITIAL, Direction.SEND, SUITE, bytes(32))), "level: is initial"),
        (
            push_secret(1, TrafficSecret(Level.HANDSHAKE, Direction.SEND, SUITE, bytes(48))),
            "secret: must have 32 bytes",
        ),
        (push_secret(1, TrafficSecret(Level.HANDSHAKE, Direction.SEND, SUITE, b"")), "secret: must have 32 bytes"),
        (push_message(FAMILY, 1, Command.TRANSPORT_PARAMETERS, push_binary(1, b"")), "alpn: is missing"),
    ],
)
def test_messages_that_no_daemon_sends_are_malformed(packet: bytes, reason: str) -> None:
    ((_, message),) = pull_from_daemon(packet)
    assert isinstance(message, Malformed)
    assert f"{message.error.attribute}: {message.error.reason}".startswith(reason)


@given(messages.SEQUENCES, messages.LOOKUPS)
def test_lookup_survives_a_round_trip(sequence: int, lookup: Lookup) -> None:
    assert list(pull_from_endpoint(push_lookup(sequence, lookup))) == [(sequence, lookup, False)]


def test_cancel_and_acknowledgement_survive_a_round_trip() -> None:
    assert list(pull_from_endpoint(push_cancel(7))) == [(7, Cancel(), False)]
    assert list(pull_from_endpoint(push_cancel(7, "why"))) == [(7, Cancel("why"), False)]
    assert list(pull_from_daemon(push_ack(7))) == [(7, Acknowledged())]


def test_error_keeps_its_text_and_offset() -> None:
    error = WireError("is missing", status=Status.OUT_OF_RANGE, attribute="message-type", offset=20)
    ((sequence, refused),) = pull_from_daemon(push_error(9, error))
    assert sequence == 9
    assert isinstance(refused, Refused)
    reported = (refused.error.reason, refused.error.status, refused.error.offset)
    assert reported == ("message-type: is missing", Status.OUT_OF_RANGE, 20)


@given(st.lists(messages.STARTS, min_size=1, max_size=6))
def test_packet_can_hold_many_messages(starts: list[Start]) -> None:
    packet = b"".join(push_start(number, start) for number, start in enumerate(starts))
    assert list(pull_from_endpoint(packet)) == [(number, start, False) for number, start in enumerate(starts)]


def test_long_crypto_data_is_split_and_only_the_last_part_is_acknowledged() -> None:
    data = bytes(range(256)) * 300
    pulled = list(pull_from_endpoint(push_crypto(1, CryptoData(Level.HANDSHAKE, data), ack=True)))
    assert b"".join(message.data for _, message, _ in pulled) == data
    assert [len(message.data) for _, message, _ in pulled] == [MAX_CRYPTO, MAX_CRYPTO, len(data) - 2 * MAX_CRYPTO]
    assert [ack for _, _, ack in pulled] == [False, False, True]


def test_empty_crypto_data_is_still_a_message() -> None:
    # Without a message there would be no acknowledgement.
    packet = push_crypto(1, CryptoData(Level.INITIAL, b""), ack=True)
    assert list(pull_from_endpoint(packet)) == [(1, CryptoData(Level.INITIAL, b""), True)]


@given(st.lists(st.integers(1, 50_000), max_size=20))
def test_joined_packets_keep_the_order_and_the_limit(sizes: list[int]) -> None:
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    packets = join_packets(parts)
    assert b"".join(packets) == b"".join(parts)
    assert all(len(packet) <= MAX_PACKET for packet in packets)
    for packet, following in pairwise(packets):
        assert len(packet) + sizes[following[0]] > MAX_PACKET


def test_done_accepts_any_reason() -> None:
    outcome = Outcome(status=5, reason="line\nfeed " + "ü" * 5000)
    ((_, done),) = pull_from_daemon(push_done(1, outcome))
    assert isinstance(done, Done)
    assert done.outcome.reason.startswith("line\\nfeed ")


@given(st.text(), st.integers(4, 1000))
def test_printable_text_is_printable_and_within_the_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown.encode()) <= limit


# Malformed messages: named, without consequences for other messages of the packet.


def start(*attributes: bytes) -> bytes:
    return push_message(FAMILY, 1, Command.START, b"".join(attributes))


def message(command: int, *attributes: bytes) -> bytes:
    return push_message(FAMILY, 1, command, b"".join(attributes))


def raw(length: int, kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", length, kind) + payload


MALFORMED = [
    ("no-role", start(), "message-type", "is missing", Status.INVALID),
    ("role-0", start(push_u32(A.MESSAGE_TYPE, 0)), "message-type", "must be 1", Status.INVALID),
    ("role-3", start(push_u32(A.MESSAGE_TYPE, 3)), "message-type", "is 3, the limit is 2", Status.OUT_OF_RANGE),
    ("twice", start(SERVER, SERVER), "message-type", "is given twice", Status.INVALID),
    ("short-u32", start(push_binary(A.MESSAGE_TYPE, b"\1\0")), "message-type", "has 2 bytes", Status.INVALID),
    ("long-u32", start(push_binary(A.MESSAGE_TYPE, bytes(8))), "message-type", "has 8 bytes", Status.INVALID),
    ("timeout", start(SERVER, push_u32(A.TIMEOUT, 600_001)), "timeout", "limit is 600000", Status.OUT_OF_RANGE),
    ("auth-mode", start(SERVER, push_u32(A.AUTH_MODE, 4)), "auth-mode", "is 4", Status.OUT_OF_RANGE),
    ("name-long", start(SERVER, push_string(A.PEERNAME, "a" * 254)), "peername", "254 bytes", Status.OUT_OF_RANGE),
    ("name-utf8", start(SERVER, push_binary(A.PEERNAME, b"\xff\0")), "peername", "not UTF-8", Status.INVALID),
    ("name-nul", start(SERVER, push_binary(A.PEERNAME, b"a\0b\0")), "peername", "control", Status.INVALID),
    ("name-newline", start(SERVER, push_string(A.PEERNAME, "a\nb")), "peername", "control", Status.INVALID),
    ("alpn-empty", start(SERVER, push_binary(A.ALPN, b"")), "alpn", "is empty", Status.INVALID),
    ("alpn-long", start(SERVER, push_binary(A.ALPN, bytes(256))), "alpn", "256 bytes", Status.OUT_OF_RANGE),
    ("alpn-many", start(SERVER, *65 * [push_binary(A.ALPN, b"x")]), "alpn", "more than 64", Status.INVALID),
    (
        "parameters",
        start(SERVER, push_binary(A.TRANSPORT_PARAMETERS, bytes(4097))),
        "transport-parameters",
        "4097 bytes",
        Status.OUT_OF_RANGE,
    ),
    ("credential", start(SERVER, push_binary(A.CREDENTIAL, bytes(31))), "credential", "32 bytes", Status.INVALID),
    (
        "anchors",
        start(SERVER, *65 * [push_binary(A.TRUST_ANCHOR, b"x")]),
        "trust-anchor",
        "more than 64",
        Status.INVALID,
    ),
    ("suite", start(SERVER, push_u32(A.CIPHER_SUITE, 0x1305)), "cipher-suite", "0x1305 is not", Status.INVALID),
    ("unknown", start(SERVER, push_u32(99, 1)), "attribute 99", "is unknown", Status.INVALID),
    ("unknown-0", start(SERVER, push_u32(0, 1)), "attribute 0", "is unknown", Status.INVALID),
    ("runs-over", start(SERVER, raw(200, A.PEERNAME, b"abcd")), "attribute 8", "nla_len is 200", Status.INVALID),
    ("runs-back", start(SERVER, raw(3, A.PEERNAME, b"abcd")), "attribute 8", "nla_len is 3", Status.INVALID),
    ("trailing", start(SERVER, b"ab"), None, "2 trailing bytes after the last attribute", Status.INVALID),
    ("level-missing", message(Command.CRYPTO, push_binary(2, b"x")), "level", "is missing", Status.INVALID),
    ("level", message(Command.CRYPTO, push_u32(1, 4), push_binary(2, b"x")), "level", "is 4", Status.OUT_OF_RANGE),
    ("data-missing", message(Command.CRYPTO, push_u32(1, 1)), "data", "is missing", Status.INVALID),
    (
        "data-long",
        message(Command.CRYPTO, push_u32(CryptoAttribute.LEVEL, 1), push_binary(2, bytes(MAX_CRYPTO + 1))),
        "data",
        "the limit is 32768",
        Status.OUT_OF_RANGE,
    ),
    ("no-parameters", message(Command.TRANSPORT_PARAMETERS), "parameters", "is missing", Status.INVALID),
    (
        "daemons-alpn",
        message(
            Command.TRANSPORT_PARAMETERS,
            push_binary(TransportParametersAttribute.PARAMETERS, b""),
            push_binary(TransportParametersAttribute.ALPN, b"h3"),
        ),
        "alpn",
        "only by the daemon",
        Status.INVALID,
    ),
    ("lookup-empty", message(Command.LOOKUP), "client-hello", "either", Status.INVALID),
    (
        "lookup-both",
        message(
            Command.LOOKUP,
            push_binary(LookupAttribute.CLIENT_HELLO, b"x"),
            push_binary(LookupAttribute.DATAGRAM, b"x"),
        ),
        "client-hello",
        "either",
        Status.INVALID,
    ),
    (
        "lookup-answer",
        message(Command.LOOKUP, push_u32(LookupAttribute.STATUS, 0)),
        "client-hello",
        "either",
        Status.INVALID,
    ),
    ("cancel-with", message(Command.CANCEL, push_u32(9, 1)), "attribute 9", "is unknown", Status.INVALID),
    ("command-0", message(0), None, "unsupported command 0", Status.UNSUPPORTED),
    ("command-99", message(99), None, "unsupported command 99", Status.UNSUPPORTED),
    ("daemons-command", message(Command.DONE, push_u32(1, 0)), None, "unsupported command 5", Status.UNSUPPORTED),
    ("family", push_message(33, 1, Command.START, SERVER), None, "nlmsg_type is 33", Status.UNSUPPORTED),
    (
        "version",
        start(SERVER)[:17] + b"\2" + start(SERVER)[18:],
        None,
        "unsupported version 2 of the family",
        Status.UNSUPPORTED,
    ),
    (
        "repeats",
        start(SERVER, push_binary(A.ALPN, b"h3") * 257),
        "alpn",
        "is given more than 256 times",
        Status.OUT_OF_RANGE,
    ),
    ("error", push_error(1, WireError("no")), None, "nlmsg_type is 2", Status.UNSUPPORTED),
]


@pytest.mark.parametrize(
    ("packet", "attribute", "reason", "status"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_message_is_refused_by_name_and_others_in_its_packet_are_not(
    packet: bytes, attribute: str | None, reason: str, status: int
) -> None:
    padded = packet + bytes(-len(packet) % 4)
    first, malformed, last = pull_from_endpoint(push_cancel(5) + padded + push_cancel(6))
    assert (first, last) == ((5, Cancel(), False), (6, Cancel(), False))
    sequence, found, ack = malformed
    assert isinstance(found, Malformed)
    assert reason in found.error.reason
    assert (sequence, found.error.attribute, found.error.status, ack) == (1, attribute, status, False)


def test_offset_of_a_malformed_attribute_is_reported() -> None:
    ((_, found, _),) = pull_from_endpoint(start(SERVER, push_u32(A.TIMEOUT, 1), push_u32(A.AUTH_MODE, 9)))
    assert isinstance(found, Malformed)
    assert found.error.offset == 20 + 8 + 8


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"abc", "3 bytes left, too few for a message header"),
        (struct.pack("=IHHII", 15, FAMILY, 0, 1, 0), "nlmsg_len is 15"),
        (struct.pack("=IHHII", 17, FAMILY, 0, 1, 0), "nlmsg_len is 17, 16 bytes are left"),
        (struct.pack("=IHHII", 0xFFFFFFFF, FAMILY, 0, 1, 0), "nlmsg_len is 4294967295"),
        (struct.pack("=IHHII", 16, FAMILY, 0, 1, 0), "nlmsg_len is 16, a generic netlink message needs 20"),
    ],
)
def test_malformed_framing_is_reported_after_the_messages_before_it(tail: bytes, reason: str) -> None:
    pulled = pull_from_endpoint(push_cancel(5) + tail)
    assert next(pulled) == (5, Cancel(), False)
    with pytest.raises(FramingError, match=reason) as caught:
        next(pulled)
    assert caught.value.offset == 20


@given(st.binary(max_size=200))
def test_random_packet_is_decoded_or_refused(packet: bytes) -> None:
    for pull in (pull_from_endpoint, pull_from_daemon):
        with suppress(FramingError):
            list(pull(packet))


@given(messages.STARTS, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_message_is_decoded_or_refused(start: Start, damage: list[tuple[int, int]]) -> None:
    packet = bytearray(push_start(1, start))
    for position, value in damage:
        packet[position % len(packet)] = value
    with suppress(FramingError):
        for _, found, _ in pull_from_endpoint(bytes(packet)):
            assert not isinstance(found, Malformed) or found.error.reason
