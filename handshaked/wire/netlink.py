"""Generic netlink framing: nlmsghdr, genlmsghdr, attributes (Documentation/userspace-api/netlink/intro.rst).

Native byte order, everything aligned to four bytes. Strict: unknown attributes are refused by name.
"""

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from handshaked.errors import FramingError, Status, WireError

NLMSG_ERROR = 2
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
MAX_REPEATS = 256
"""Most repetitions of one attribute in a message."""
_NLMSGERR_ATTR_MSG = 1
_NLMSGERR_ATTR_OFFS = 2

_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_HEADERS = struct.Struct("=IHHIIBBH")
_U32_ATTRIBUTE = struct.Struct("=HHI")
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")
HEADER_SIZE = _HEADERS.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_TYPE_MASK = 0x3FFF  # NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags on the type


class Kind(enum.Enum):
    """Types of attribute payloads."""

    U32 = enum.auto()
    STRING = enum.auto()
    BINARY = enum.auto()
    FLAG = enum.auto()


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules for an attribute: `maximum` is its largest value (U32) or its largest length in bytes."""

    name: str
    kind: Kind
    maximum: int = 0xFFFFFFFF
    multi: bool = False
    required: bool = False


class Frame(NamedTuple):
    """One message of a packet; `attributes` is everything after the two headers."""

    family: int
    flags: int
    sequence: int
    command: int
    version: int
    attributes: bytes


def push_message(family: int, sequence: int, command: int, attributes: bytes, flags: int = 0) -> bytes:
    """Encode a message of version 1 from encoded `attributes`."""
    return _HEADERS.pack(HEADER_SIZE + len(attributes), family, flags, sequence, 0, command, 1, 0) + attributes


def push_u32(kind: int, value: int) -> bytes:
    """Encode a u32 attribute."""
    return _U32_ATTRIBUTE.pack(8, kind, value)


def push_binary(kind: int, value: bytes) -> bytes:
    """Encode a binary attribute of at most 65,531 bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + _PADDING[len(value) & 3]


def push_string(kind: int, value: str) -> bytes:
    """Encode a NUL-terminated string attribute."""
    return push_binary(kind, value.encode() + b"\0")


def push_error(sequence: int, error: WireError) -> bytes:
    """Encode an extended acknowledgement (struct nlmsgerr with attributes) that reports an error in `sequence`."""
    text = error.reason if error.attribute is None else f"{error.attribute}: {error.reason}"
    body = _ERROR.pack(-error.status) + _MESSAGE.pack(_MESSAGE.size, 0, 0, sequence, 0)
    body += push_string(_NLMSGERR_ATTR_MSG, text)
    if error.offset is not None:
        body += push_u32(_NLMSGERR_ATTR_OFFS, error.offset)
    return _MESSAGE.pack(_MESSAGE.size + len(body), NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence, 0) + body


def push_ack(sequence: int) -> bytes:
    """Encode the acknowledgement of a message with NLM_F_ACK: an NLMSG_ERROR with status 0."""
    body = _ERROR.pack(0) + _MESSAGE.pack(_MESSAGE.size, 0, 0, sequence, 0)
    return _MESSAGE.pack(_MESSAGE.size + len(body), NLMSG_ERROR, NLM_F_CAPPED, sequence, 0) + body


def pull_error(body: bytes) -> WireError | None:
    """Decode the `body` of an NLMSG_ERROR, which follows its nlmsghdr; None for an acknowledgement."""
    if len(body) < _ERROR.size + _MESSAGE.size:
        raise FramingError(f"truncated error message of {len(body)} bytes")
    status = -_ERROR.unpack_from(body)[0]
    if status == 0:
        return None
    text, offset = "refused", None
    for kind, payload, _ in pull_raw_attributes(body[_ERROR.size + _MESSAGE.size :]):
        if kind == _NLMSGERR_ATTR_MSG:
            text = payload.rstrip(b"\0").decode(errors="replace")
        elif kind == _NLMSGERR_ATTR_OFFS and len(payload) == 4:
            offset = int(_U32.unpack(payload)[0])
    return WireError(text, status=status, offset=offset)


def pull_frames(packet: bytes) -> Iterator[Frame]:
    """Yield the messages of a packet, in order; FramingError if its framing is malformed.

    An NLMSG_ERROR becomes a frame of that family with command 0 and its body as `attributes`.
    """
    position = 0
    while position < len(packet):
        left = len(packet) - position
        if left < _MESSAGE.size:
            raise FramingError(f"{left} bytes left, too few for a message header", offset=position)
        length, family, flags, sequence, _ = _MESSAGE.unpack_from(packet, position)
        if not _MESSAGE.size <= length <= left:
            raise FramingError(f"nlmsg_len is {length}, {left} bytes are left in the packet", offset=position)
        end = position + length
        if family == NLMSG_ERROR:
            yield Frame(family, flags, sequence, 0, 0, packet[position + _MESSAGE.size : end])
        elif length < HEADER_SIZE:
            raise FramingError(f"nlmsg_len is {length}, a generic netlink message needs {HEADER_SIZE}", offset=position)
        else:
            command, version, _ = _GENERIC.unpack_from(packet, position + _MESSAGE.size)
            yield Frame(family, flags, sequence, command, version, packet[position + HEADER_SIZE : end])
        position += (length + 3) & ~3


def pull_attributes(frame: Frame, policies: Mapping[int, Policy]) -> dict[int, Any]:
    """Return the attributes of `frame` by type, lists where the policy is multi; WireError names an invalid one."""
    values: dict[int, Any] = {}
    for kind, payload, offset in pull_raw_attributes(frame.attributes, HEADER_SIZE):
        policy = policies.get(kind)
        if policy is None:
            raise WireError("is unknown", attribute=f"attribute {kind}", offset=offset)
        value = _pull_value(policy, payload, offset)
        if policy.multi:
            several = values.setdefault(kind, [])
            if len(several) == MAX_REPEATS:
                raise _out_of_range(policy, f"is given more than {MAX_REPEATS} times", offset)
            several.append(value)
        elif kind in values:
            raise WireError("is given twice", attribute=policy.name, offset=offset)
        else:
            values[kind] = value
    for kind, policy in policies.items():
        if policy.required and kind not in values:
            raise WireError("is missing", attribute=policy.name)
    return values


def pull_raw_attributes(data: bytes, base: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Yield the type, payload and offset (from `base`) of each attribute; WireError at the first malformed length."""
    position = 0
    while position < len(data):
        left = len(data) - position
        if left < _ATTRIBUTE.size:
            raise WireError(f"{left} trailing bytes after the last attribute", offset=base + position)
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if not _ATTRIBUTE.size <= length <= left:
            raise WireError(
                f"nla_len is {length}, {left} bytes are left in the message",
                attribute=f"attribute {kind & _TYPE_MASK}",
                offset=base + position,
            )
        yield kind & _TYPE_MASK, data[position + _ATTRIBUTE.size : position + length], base + position
        position += (length + 3) & ~3


def _pull_value(policy: Policy, payload: bytes, offset: int) -> Any:
    if policy.kind is Kind.U32:
        if len(payload) != _U32.size:
            raise WireError(f"has {len(payload)} bytes, expected 4", attribute=policy.name, offset=offset)
        value = int(_U32.unpack(payload)[0])
        if value > policy.maximum:
            raise _out_of_range(policy, f"is {value}, the limit is {policy.maximum}", offset)
        return value
    if policy.kind is Kind.FLAG:
        if payload:
            raise WireError("is a flag and must be empty", attribute=policy.name, offset=offset)
        return True
    if policy.kind is Kind.STRING:
        payload = payload.removesuffix(b"\0")
    if len(payload) > policy.maximum:
        raise _out_of_range(policy, f"has {len(payload)} bytes, the limit is {policy.maximum}", offset)
    if policy.kind is Kind.BINARY:
        return payload
    return _pull_text(policy, payload, offset)


def _pull_text(policy: Policy, payload: bytes, offset: int) -> str:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise WireError("is not UTF-8", attribute=policy.name, offset=offset) from None
    if not text.isprintable():
        raise WireError("contains control characters", attribute=policy.name, offset=offset)
    return text


def _out_of_range(policy: Policy, reason: str, offset: int) -> WireError:
    return WireError(reason, status=Status.OUT_OF_RANGE, attribute=policy.name, offset=offset)
