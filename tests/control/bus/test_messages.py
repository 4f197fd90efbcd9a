"""Messages cut from the stream of the bus, whatever the pieces are that it arrives in; what is too long is skipped."""

import os
import socket

import pytest

from handshaked.control.bus.marshalling import MalformedError, marshal, types_of
from handshaked.control.bus.messages import MAX_BODY, MAX_FIELDS, Flag, Kind, Message, MessageStream, Received
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors

CALL = Message(
    Kind.METHOD_CALL, "org.example.Name", "/org/example", "org.example.Interface", "Member",
    signature="sas", body=("x", ["y", "z"]), flags=Flag.ALLOW_INTERACTIVE_AUTHORIZATION,
)  # fmt: skip
LONG = Message(Kind.METHOD_CALL, path="/o", member="Long", signature="s", body=("x" * MAX_BODY,))
LONG_PATH = Message(Kind.METHOD_CALL, path="/" + "x" * MAX_FIELDS, member="Path", signature="s", body=("body",))


def check(call: Received) -> None:
    assert (call.kind, call.serial, call.flags) == (Kind.METHOD_CALL, 7, Flag.ALLOW_INTERACTIVE_AUTHORIZATION)
    assert (call.path, call.interface, call.member) == ("/org/example", "org.example.Interface", "Member")
    assert call.values("sas", 10) == ["x", ["y", "z"]]


def test_message_is_received_whole_byte_by_byte_and_with_junk_behind() -> None:
    content = CALL.marshal(7)
    [whole] = MessageStream().receive(content)
    check(whole)
    stream = MessageStream()
    [in_pieces] = [found for byte in content for found in stream.receive(bytes([byte]))]
    assert in_pieces == whole
    with pytest.raises(MalformedError):
        MessageStream().receive(content + b"junk that is longer than a header")


def test_replies_and_errors_carry_what_they_answer() -> None:
    [call] = MessageStream().receive(CALL.marshal(7))
    [reply] = MessageStream().receive(call.returning("s", "result").marshal(1))
    assert (reply.kind, reply.reply_serial, reply.values("s", 1)) == (Kind.METHOD_RETURN, 7, ["result"])
    [error] = MessageStream().receive(call.failing("org.example.Error", "text").marshal(2))
    assert (error.kind, error.error_name, error.values("s", 1)) == (Kind.ERROR, "org.example.Error", ["text"])


def test_values_of_another_signature_are_refused() -> None:
    [call] = MessageStream().receive(CALL.marshal(7))
    with pytest.raises(MalformedError, match=r"\(sas\) instead of \(s\)"):
        call.values("s", 10)


@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20])
def test_long_body_is_skipped_and_the_next_message_received(size: int) -> None:
    stream, found = MessageStream(), []
    content = LONG.marshal(3) + CALL.marshal(7)
    for start in range(0, len(content), size):
        found += stream.receive(content[start : start + size])
    long, call = found
    assert (long.member, long.serial, long.body) == ("Long", 3, None)
    with pytest.raises(MalformedError, match="longer than"):
        long.values("s", 1)
    check(call)
    assert not stream.skipping


def test_message_with_long_fields_is_skipped() -> None:
    skipped, call = MessageStream().receive(LONG_PATH.marshal(3) + CALL.marshal(7))
    assert (skipped.kind, skipped.path, skipped.body) == (0, "", None)
    check(call)


TEXT_AS_REPLY_SERIAL = b"\x05\x01s\0" + marshal("s", ["x"])
TWO_TYPES_IN_A_VARIANT = b"\x02\x02yy\0\x01\x02"
TRUNCATED = b"\x02\x01s\0\xff"


@pytest.mark.parametrize("field", [TEXT_AS_REPLY_SERIAL, TWO_TYPES_IN_A_VARIANT, TRUNCATED])
def test_message_with_malformed_fields_has_no_kind(field: bytes) -> None:
    header = b"l\x01\0\x01" + marshal("uuu", [0, 1, len(field)]) + field
    [message] = MessageStream().receive(header + bytes(-len(header) % 8))
    assert message.kind == 0


@pytest.mark.parametrize("header", [b"x\x01\0\x01", b"l\x01\0\x02", b"l\x01\0\x01\xff\xff\xff\xff"])
def test_bytes_that_are_no_message_end_the_connection(header: bytes) -> None:
    with pytest.raises(MalformedError):
        MessageStream().receive(header.ljust(16, b"\0"))


def test_signatures_of_messages_are_not_parsed_before_somebody_asks() -> None:
    signatures = ["".join("yn"[number >> bit & 1] for bit in range(10)) for number in range(300)]
    contents = [
        Message(Kind.SIGNAL, path="/o", interface="a.b", member="M", signature=one, body=[0] * 10).marshal(1)
        for one in signatures
    ]
    types_of.cache_clear()
    stream = MessageStream()
    assert [message.signature for content in contents for message in stream.receive(content)] == signatures
    assert types_of.cache_info().currsize < 10


def test_descriptors_belong_to_the_message_they_were_sent_with() -> None:
    """As the bus sends them: each message in packets of its own, descriptors with the first byte."""
    ours, theirs = socket.socketpair()
    stream, found = MessageStream(), []
    with ours, theirs:
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        theirs.send(CALL.marshal(1))
        for serial, attached, message in ((2, files[:1], CALL), (3, files[1:], LONG), (4, [], CALL)):
            content = message.marshal(serial)
            sent = theirs.sendmsg([content], push_descriptors(attached))
            assert sent == len(content)
        theirs.close()
        close_all(files)
        while True:
            chunk, control, _, _ = ours.recvmsg(1 << 14, CONTROL_SPACE)
            if not chunk:
                break
            found += stream.receive(chunk, tuple(pull_descriptors(control)))
    assert [(one.serial, len(one.descriptors)) for one in found] == [(1, 0), (2, 1), (3, 2), (4, 0)]
    close_all(descriptor for one in found for descriptor in one.descriptors)


def test_descriptors_of_an_incomplete_message_are_returned_at_the_end() -> None:
    stream = MessageStream()
    assert stream.receive(CALL.marshal(7)[:20], (5,)) == []
    assert stream.receive(CALL.marshal(7)[20:40], (6,)) == []
    assert stream.close() == (5, 6)
