"""The messages of the kernel's generic netlink family ``handshake``, coded by pyroute2.

``netlink/handshake.yaml`` specifies the family.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from pyroute2.netlink import CTRL_CMD_GETFAMILY, GENL_ID_CTRL, NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkDecodeError

from handshaked.errors import FramingError, WireError
from handshaked.model import AuthMode, Role
from handshaked.wire.netlink import HEADER_SIZE, pull_raw_attributes

FAMILY_NAME = "handshake"
GROUP_NAME = "tlshd"
MAX_PEER_KEYS = 5
MAX_MESSAGE = 32 * 1024
_HANDLER_CLASS = 1
_READY, _ACCEPT, _DONE = 1, 2, 3
_SOCKFD = 1
_CTRL_NEWFAMILY, _CTRL_DELFAMILY = 1, 2
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_DESCRIPTOR = struct.Struct("=i")


class _Group(nla):  # type: ignore[misc] # pyroute2 has no types
    nla_map: ClassVar = ((1, "NAME", "asciiz"), (2, "ID", "uint32"))


class _Control(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    """A message of the family nlctrl, with only the attributes that are used here."""

    nla_map: ClassVar = ((1, "FAMILY_ID", "uint16"), (2, "FAMILY_NAME", "asciiz"), (7, "GROUPS", "*group"))
    group = _Group
    nesting: ClassVar = {7: 2}


class _Certificate(nla):  # type: ignore[misc] # pyroute2 has no types
    nla_map: ClassVar = ((1, "CERT", "int32"), (2, "PRIVKEY", "int32"))


class _Accept(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    nla_map: ClassVar = (
        (1, "SOCKFD", "int32"),
        (2, "HANDLER_CLASS", "uint32"),
        (3, "MESSAGE_TYPE", "uint32"),
        (4, "TIMEOUT", "uint32"),
        (5, "AUTH_MODE", "uint32"),
        (6, "PEER_IDENTITY", "int32"),
        (7, "CERTIFICATE", "certificate"),
        (8, "PEERNAME", "asciiz"),
        (9, "KEYRING", "int32"),
    )
    certificate = _Certificate
    nesting: ClassVar = {7: 1}


class _Done(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    nla_map: ClassVar = (
        (1, "STATUS", "uint32"),
        (2, "SOCKFD", "int32"),
        (3, "REMOTE_AUTH", "int32"),
        (4, "TAG", "asciiz"),
    )


@dataclass(frozen=True, slots=True)
class Ready:
    """A request is pending."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted request: the fields of the ACCEPT reply. ``timeout`` is in seconds."""

    descriptor: int
    role: Role
    auth_mode: AuthMode
    timeout: float | None
    peer_name: str | None
    identity_keys: tuple[int, ...]
    certificate_keys: tuple[tuple[int, int], ...]
    keyring: int | None


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """An accepted request that is malformed or not supported; ``descriptor`` is None if it has no socket."""

    descriptor: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Family:
    """The family's number and the number of the multicast group of READY, None if there is no such group."""

    number: int
    group: int | None


@dataclass(frozen=True, slots=True)
class FamilyChange:
    """The family was added or removed."""

    present: bool


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The result of a command without another answer: 0 or an errno."""

    status: int


FromKernel = Ready | Accepted | InvalidRequest | Family | FamilyChange | Acknowledgement


def push_get_family(sequence: int) -> bytes:
    """Encode the request for the family's numbers."""
    return _push(_Control(), GENL_ID_CTRL, sequence, CTRL_CMD_GETFAMILY, [("FAMILY_NAME", FAMILY_NAME)])


def push_accept(family: int, sequence: int) -> bytes:
    """Encode ACCEPT, which asks for the next pending request."""
    return _push(_Accept(), family, sequence, _ACCEPT, [("HANDLER_CLASS", _HANDLER_CLASS)])


def push_done(
    family: int,
    sequence: int,
    descriptor: int,
    status: int,
    peer_keys: tuple[int, ...] = (),
    tags: tuple[str, ...] = (),
) -> bytes:
    """Encode DONE, the result of the request with `descriptor`."""
    attributes: list[tuple[str, Any]] = [("STATUS", status), ("SOCKFD", descriptor)]
    attributes += [("REMOTE_AUTH", serial) for serial in peer_keys[:MAX_PEER_KEYS]]
    attributes += [("TAG", tag) for tag in tags]
    return _push(_Done(), family, sequence, _DONE, attributes, NLM_F_ACK)


def pull_from_kernel(packet: bytes, family: int | None) -> Iterator[tuple[int, FromKernel]]:
    """Yield the relevant messages of a packet with their sequence numbers; FramingError if it is malformed."""
    position = 0
    while position < len(packet):
        if len(packet) - position < _HEADER.size:
            raise FramingError("truncated netlink header", offset=position)
        length, kind, _, sequence, _ = _HEADER.unpack_from(packet, position)
        if not _HEADER.size + 4 <= length <= len(packet) - position:
            raise FramingError(f"netlink message with a length of {length} bytes", offset=position)
        message = packet[position : position + length]
        if kind == _NLMSG_ERROR:
            yield sequence, Acknowledgement(-_ERROR.unpack_from(message, _HEADER.size)[0])
        elif kind == GENL_ID_CTRL:
            yield from ((sequence, one) for one in _pull_control(message))
        elif kind == family:
            yield from ((sequence, one) for one in _pull_handshake(message))
        position += (length + 3) & ~3


def _pull_control(message: bytes) -> Iterator[FromKernel]:
    decoded = _decoded(_Control, message)
    if decoded is None or _unreadable(decoded) or decoded.get_attr("FAMILY_NAME") != FAMILY_NAME:
        return
    if decoded["cmd"] == _CTRL_DELFAMILY:
        yield FamilyChange(present=False)
    if decoded["cmd"] != _CTRL_NEWFAMILY:
        return
    if not decoded["header"]["sequence_number"]:
        yield FamilyChange(present=True)
        return
    groups = {group.get_attr("NAME"): group.get_attr("ID") for group in decoded.get_attr("GROUPS") or ()}
    number = decoded.get_attr("FAMILY_ID")
    if number is not None:
        yield Family(number, groups.get(GROUP_NAME))


def _pull_handshake(message: bytes) -> Iterator[FromKernel]:
    command = message[_HEADER.size]
    if command == _READY:
        yield Ready()
    elif command == _ACCEPT:
        decoded = _decoded(_Accept, message)
        if decoded is None:
            yield InvalidRequest(_descriptor_in(message), "malformed ACCEPT reply")
        else:
            yield _pull_accept(decoded)


def _descriptor_in(message: bytes) -> int | None:
    """Return the socket of an ACCEPT reply that is malformed after it: it has to be answered and closed."""
    with suppress(WireError):
        for kind, payload, _ in pull_raw_attributes(message[HEADER_SIZE:]):
            if kind == _SOCKFD and len(payload) == _DESCRIPTOR.size:
                return int(_DESCRIPTOR.unpack(payload)[0])
    return None


def _pull_accept(message: Any) -> FromKernel:
    descriptor = message.get_attr("SOCKFD")
    if unreadable := _unreadable(message):
        # The socket is ours nevertheless: it must be answered and closed.
        reason = f"malformed ACCEPT reply: {', '.join(unreadable)}"
        return InvalidRequest(None if "SOCKFD" in unreadable else descriptor, reason)
    try:
        role = Role(message.get_attr("MESSAGE_TYPE") or 0)
        auth_mode = AuthMode(message.get_attr("AUTH_MODE") or 0)
    except ValueError as error:
        return InvalidRequest(descriptor, f"unsupported ACCEPT reply: {error}")
    if descriptor is None:
        return InvalidRequest(None, "ACCEPT reply without a socket")
    timeout = message.get_attr("TIMEOUT")
    certificates = [
        (certificate.get_attr("CERT") or 0, certificate.get_attr("PRIVKEY") or 0)
        for certificate in message.get_attrs("CERTIFICATE")
    ]
    return Accepted(
        descriptor=descriptor,
        role=role,
        auth_mode=auth_mode,
        timeout=timeout / 1000 if timeout else None,
        peer_name=message.get_attr("PEERNAME") or None,
        identity_keys=tuple(serial for serial in message.get_attrs("PEER_IDENTITY") if serial),
        certificate_keys=tuple(pair for pair in certificates if all(pair)),
        keyring=message.get_attr("KEYRING") or None,
    )


def _push(
    message: Any, family: int, sequence: int, command: int, attributes: list[tuple[str, Any]], flags: int = 0
) -> bytes:
    message["cmd"] = command
    message["version"] = 1
    message["attrs"] = attributes
    message["header"]["type"] = family
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)


def _decoded(kind: Any, message: bytes) -> Any | None:
    """Return `message` with its attributes decoded, None if it is malformed.

    Lengths are checked first: pyroute2 clamps those that leave the message, and never ends on an array with an
    element of length 0.
    """
    decoded = kind(message)
    try:
        _check_lengths(message[HEADER_SIZE:], kind.nesting)
        decoded.decode()
        _unreadable(decoded)  # accessing nested attributes decodes them
    except (WireError, NetlinkDecodeError, struct.error, ValueError):
        return None
    return decoded


def _check_lengths(attributes: bytes, nesting: Mapping[int, int]) -> None:
    """Raise WireError unless every attribute has its header and ends inside what contains it.

    `nesting` maps the types of attributes that contain attributes to the levels below them: 1 for a nest, 2 for an
    array of nests.
    """
    for kind, payload, _ in pull_raw_attributes(attributes):
        _check_nested_lengths(payload, nesting.get(kind, 0))


def _check_nested_lengths(attributes: bytes, levels: int) -> None:
    if levels:
        for _, payload, _ in pull_raw_attributes(attributes):
            _check_nested_lengths(payload, levels - 1)


def _unreadable(message: Any) -> list[str]:
    """Return the names of attributes that could not be decoded: pyroute2 keeps them as bytes."""
    return [name for name, value, *_ in message["attrs"] if not _is_decoded(name, value)]


def _is_decoded(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_decoded(name, one) for one in value)
    if isinstance(value, nla):  # decoded when it is accessed
        return not _unreadable(value)
    return name == "UNKNOWN" or not isinstance(value, bytes | bytearray)
