"""The packets between the demultiplexer and the binder, each with descriptors attached (SOCK_SEQPACKET).

The demultiplexer first shows the sockets of its shared ports (SHOW), which replace those of an earlier SHOW. Every
request gets one answer: itself and an errno, with the sockets attached.
"""

import errno
import os
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from handshaked.errors import FramingError
from handshaked.wire.addresses import Address, family_of

MAX_SOCKETS = 64
"""Most sockets in one answer."""
_REQUEST = struct.Struct("=BBHHxxI16s")
_STATUS = struct.Struct("=i")
REQUEST_SIZE, ANSWER_SIZE = _REQUEST.size, _REQUEST.size + _STATUS.size
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Kind(IntEnum):
    """The kinds of requests."""

    SHOW = 0
    UNBOUND = 1
    FLOW = 2
    SHARED = 3


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `count` sockets. Of ``address``, UNBOUND uses the family only, FLOW also the port."""

    kind: Kind
    count: int
    address: Address


def push_request(request: Request) -> bytes:
    """Encode `request`."""
    host, port = str(request.address[0]).partition("%")[0], request.address[1]
    family = family_of(request.address)
    scope = request.address[3] if family == socket.AF_INET6 else 0
    version = 6 if family == socket.AF_INET6 else 4
    return _REQUEST.pack(request.kind, version, request.count, port, scope, socket.inet_pton(family, host))


def pull_request(packet: bytes) -> Request:
    """Decode a request. FramingError if it is malformed."""
    if len(packet) != _REQUEST.size:
        raise FramingError(f"a request of {len(packet)} bytes, not {_REQUEST.size}")
    kind, version, count, port, scope, host = _REQUEST.unpack(packet)
    if kind not in list(Kind) or version not in _FAMILIES or count > MAX_SOCKETS:
        raise FramingError(f"a request of kind {kind} for {count} sockets of IP version {version}")
    if version == 6:
        return Request(Kind(kind), count, (socket.inet_ntop(socket.AF_INET6, host), port, 0, scope))
    return Request(Kind(kind), count, (socket.inet_ntop(socket.AF_INET, host[:4]), port))


def push_answer(request: Request, status: int) -> bytes:
    """Encode the answer to `request`: 0 or an errno."""
    return push_request(request) + _STATUS.pack(status)


def pull_answer(packet: bytes) -> tuple[Request, OSError | None]:
    """Decode an answer. FramingError if it is malformed."""
    if len(packet) != ANSWER_SIZE:
        raise FramingError(f"an answer of {len(packet)} bytes, not {ANSWER_SIZE}")
    (status,) = _STATUS.unpack_from(packet, _REQUEST.size)
    error = OSError(status, os.strerror(status)) if status else None
    return pull_request(packet[: _REQUEST.size]), error


LATE = errno.ETIMEDOUT
"""Stands for an answer that has not arrived in time."""
