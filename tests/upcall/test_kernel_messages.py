"""The codec of the kernel's family: messages recorded from a kernel, our own, and malformed ones."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import FramingError, Status
from handshaked.model import AuthMode, Role
from handshaked.upcall.kernel_messages import (
    Accepted,
    Acknowledgement,
    Family,
    FamilyChange,
    InvalidRequest,
    Ready,
    pull_from_kernel,
    push_accept,
    push_done,
    push_get_family,
)
from handshaked.wire.netlink import pull_frames, push_binary, push_message, push_string, push_u32

FAMILY = 33
# Linux 6.12
GETFAMILY_REPLY = bytes.fromhex(
    "a40000001000000002000000cc000000010200000e00020068616e647368616b65000000060001002100000008000300010000000800"
    "04000000000008000500000000002c000600140001000800010002000000080002000b0000001400020008000100030000000800020"
    "00a0000003400070018000100080002000d000000090001006e6f6e650000000018000200080002000e0000000a000100746c736864"
    "000000"
)
READY = bytes.fromhex("1c000000210000000000000000000000010100000800020001000000")
CLIENT = bytes.fromhex(
    "440000002100000011000000cc0000000201000008000100060000000800030001000000100008007365727665722e7465737400"
    "08000400c40900000800050003000000"
)
SERVER = bytes.fromhex(
    "340000002100000012000000cc000000020100000800010007000000080003000200000008000400c40900000800050003000000"
)
SERIALS = bytes.fromhex(
    "540000002100000026000000cc00000002010000080001000700000008000300010000000b000800702e746573740000"
    "08000400d2040000080005000300000014000780080001005704000008000200ae080000"
)
IDENTITIES = bytes.fromhex(
    "4c0000002100000028000000cc000000020100000800010007000000080003000100000008000400d20400000800050002000000"
    "080006000b00000008000600160000000800060021000000"
)


def only(packet: bytes) -> object:
    ((_, message),) = pull_from_kernel(packet, FAMILY)
    return message


def test_family_is_resolved_with_its_group() -> None:
    ((sequence, message),) = pull_from_kernel(GETFAMILY_REPLY, None)
    assert (sequence, message) == (2, Family(33, 14))


def test_ready_is_decoded() -> None:
    assert only(READY) == Ready()


def test_client_request_is_decoded() -> None:
    assert only(CLIENT) == Accepted(6, Role.CLIENT, AuthMode.X509, 2.5, "server.test", (), (), None)


def test_server_request_is_decoded() -> None:
    assert only(SERVER) == Accepted(7, Role.SERVER, AuthMode.X509, 2.5, None, (), (), None)


def test_serials_of_a_certificate_and_its_key_are_decoded() -> None:
    message = only(SERIALS)
    assert isinstance(message, Accepted)
    assert message.certificate_keys == ((1111, 2222),)


def test_serials_of_pre_shared_keys_are_decoded() -> None:
    message = only(IDENTITIES)
    assert isinstance(message, Accepted)
    assert (message.auth_mode, message.identity_keys) == (AuthMode.PSK, (11, 22, 33))


def test_keyring_is_decoded_and_an_unknown_attribute_ignored() -> None:
    attributes = push_u32(1, 5) + push_u32(3, 2) + push_u32(5, 2) + push_u32(6, 0) + push_u32(9, 240739360)
    message = only(push_message(FAMILY, 4, 2, attributes + push_binary(77, b"what is this")))
    assert message == Accepted(5, Role.SERVER, AuthMode.PSK, None, None, (), (), 240739360)


@pytest.mark.parametrize(
    ("attributes", "descriptor"),
    [
        (push_u32(3, 1) + push_u32(5, 3), None),
        (push_u32(1, 6) + push_u32(3, 9) + push_u32(5, 3), 6),
        (push_u32(1, 6) + push_u32(3, 1) + push_u32(5, 9), 6),
        (push_u32(1, 6) + push_u32(5, 3), 6),
        (push_u32(1, 6) + push_u32(3, 1) + push_binary(8, b"\xff\xfe\0") + push_u32(5, 3), 6),
    ],
    ids=["no socket", "unknown role", "unknown authentication", "no role", "a name in no encoding"],
)
def test_unsupported_request_is_invalid(attributes: bytes, descriptor: int | None) -> None:
    message = only(push_message(FAMILY, 4, 2, attributes))
    assert isinstance(message, InvalidRequest)
    assert message.descriptor == descriptor


def test_refusals_and_acknowledgements_are_decoded() -> None:
    refusal = bytes.fromhex("30000000020000000700000000000000f5ffffff1c0000002100010007000000000000000201000008000200")
    ((sequence, message),) = pull_from_kernel(refusal + bytes(4), FAMILY)
    assert (sequence, message) == (7, Acknowledgement(Status.WOULD_BLOCK))


def test_added_and_removed_family_is_reported() -> None:
    attributes = push_string(2, "handshake") + push_binary(1, b"\x21\0")
    assert only(push_message(16, 0, 1, attributes)) == FamilyChange(present=True)
    assert only(push_message(16, 0, 2, attributes)) == FamilyChange(present=False)
    assert not list(pull_from_kernel(push_message(16, 0, 1, push_string(2, "nl80211")), FAMILY))


def test_commands_are_decoded_by_our_own_codec() -> None:
    (frame,) = pull_frames(push_accept(FAMILY, 5))
    assert (frame.family, frame.sequence, frame.command, frame.version) == (FAMILY, 5, 2, 1)
    assert frame.attributes == push_u32(2, 1)
    (frame,) = pull_frames(push_get_family(6))
    assert (frame.family, frame.command, frame.attributes) == (16, 3, push_string(2, "handshake"))
    (frame,) = pull_frames(push_done(FAMILY, 7, 9, 13, (111, -1), ("a", "b")))
    assert frame.command == 3
    assert frame.flags & 4, "an acknowledgement is asked for"
    attributes = push_u32(1, 13) + push_u32(2, 9) + push_u32(3, 111) + push_u32(3, 0xFFFFFFFF)
    assert frame.attributes == attributes + push_string(4, "a") + push_string(4, "b")


def test_at_most_five_peer_keys_are_sent() -> None:
    (frame,) = pull_frames(push_done(FAMILY, 7, 9, 0, tuple(range(1, 9))))
    assert frame.attributes.count(b"\x08\0\x03\0") == 5


def damaged(packet: bytes, *damages: tuple[int, int]) -> bytes:
    """Return `packet` with bytes replaced: (position, value) pairs; those beyond its end are ignored."""
    data = bytearray(packet)
    for position, value in damages:
        if position < len(data):
            data[position] = value
    return bytes(data)


OPS, GROUPS = 68, 112
"""Offsets of the arrays in GETFAMILY_REPLY."""


@pytest.mark.timeout(20)
@pytest.mark.parametrize("array", [OPS, GROUPS], ids=["operations", "groups"])
@pytest.mark.parametrize("element", [0, 1, 3, 0x40, 0xFF])
def test_array_with_a_malformed_element_is_refused(array: int, element: int) -> None:
    """pyroute2 alone never steps over an element of length 0."""
    packet = damaged(GETFAMILY_REPLY, (array + 2, 7), (array + 4, element))
    assert list(pull_from_kernel(packet, None)) == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("position", "value"), [(72, 0), (54, 6), (54, 7), (62, 6), (62, 7)])
def test_message_that_pyroute2_never_finishes_is_refused(position: int, value: int) -> None:
    messages = [message for _, message in pull_from_kernel(damaged(GETFAMILY_REPLY, (position, value)), None)]
    assert messages in ([], [Family(33, 14)])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("inner", [0, 3, 9, 0xFFFF])
def test_request_with_a_malformed_certificate_still_names_its_socket(inner: int) -> None:
    nested = inner.to_bytes(2, "little") + SERIALS[70:]
    message = only(SERIALS[:68] + nested)
    assert message == InvalidRequest(7, "malformed ACCEPT reply")


@pytest.mark.parametrize("length", [0, 3, 0xFF])
def test_request_whose_first_attribute_is_malformed_has_no_socket(length: int) -> None:
    assert only(damaged(CLIENT, (20, length))) == InvalidRequest(None, "malformed ACCEPT reply")


@given(st.binary(max_size=200))
def test_garbage_is_malformed(packet: bytes) -> None:
    with contextlib.suppress(FramingError):
        list(pull_from_kernel(packet, FAMILY))


@given(
    st.sampled_from([GETFAMILY_REPLY, CLIENT, SERIALS, IDENTITIES]),
    st.lists(st.tuples(st.integers(16, 83), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_message_is_decoded_or_refused(packet: bytes, damages: list[tuple[int, int]]) -> None:
    for _, message in pull_from_kernel(damaged(packet, *damages), FAMILY):
        assert isinstance(message, Accepted | InvalidRequest | Family | FamilyChange | Ready | Acknowledgement)
