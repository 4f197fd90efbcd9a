"""Vectors and lists of TLS's presentation language (RFC 8446 section 3), strictly: what is pulled is all there.

A ``pull_x`` takes bytes and an offset and gives the value and the offset behind it; a ``whole_x`` takes bytes that
must be that value and nothing else; a ``push_x`` gives bytes. All raise PeerError(decode_error).
"""

import struct
from collections.abc import Container

from handshaked.errors import Alert, PeerError

_MANY = 256


def decode_error(what: str) -> PeerError:
    """The error for bytes that cannot be what they claim to be (RFC 8446 section 6.2)."""
    return PeerError(Alert.DECODE_ERROR, f"malformed {what}")


def pull_vector8(data: bytes, at: int, what: str, least: int = 0) -> tuple[bytes, int]:
    """A vector with a one-byte length, of `least` bytes or more."""
    start = at + 1
    if start > len(data):
        raise decode_error(what)
    end = start + data[at]
    if end > len(data) or end - start < least:
        raise decode_error(what)
    return data[start:end], end


def pull_vector16(data: bytes, at: int, what: str, least: int = 0) -> tuple[bytes, int]:
    """A vector with a two-byte length, of `least` bytes or more."""
    start = at + 2
    if start > len(data):
        raise decode_error(what)
    end = start + (data[at] << 8 | data[at + 1])
    if end > len(data) or end - start < least:
        raise decode_error(what)
    return data[start:end], end


def pull_vector24(data: bytes, at: int, what: str, least: int = 0) -> tuple[bytes, int]:
    """A vector with a three-byte length, of `least` bytes or more."""
    start = at + 3
    if start > len(data):
        raise decode_error(what)
    end = start + int.from_bytes(data[at:start])
    if end > len(data) or end - start < least:
        raise decode_error(what)
    return data[start:end], end


def whole_vector8(data: bytes, what: str, least: int = 0) -> bytes:
    """The vector with a one-byte length that `data` is."""
    if len(data) < 1 + least or data[0] != len(data) - 1:
        raise decode_error(what)
    return data[1:]


def whole_vector16(data: bytes, what: str, least: int = 0) -> bytes:
    """The vector with a two-byte length that `data` is."""
    if len(data) < 2 + least or (data[0] << 8 | data[1]) != len(data) - 2:
        raise decode_error(what)
    return data[2:]


def unpack_u16s(body: bytes, what: str) -> tuple[int, ...]:
    """The two-byte numbers that `body` consists of."""
    count, odd = divmod(len(body), 2)
    if odd:
        raise decode_error(what)
    return struct.unpack(f">{count}H", body)


def known_among(numbers: tuple[int, ...], known: Container[int]) -> tuple[int, ...]:
    """`numbers`; only those that are `known`, if they are so many that a peer would fill memory with them."""
    if len(numbers) <= _MANY:
        return numbers
    return tuple(dict.fromkeys(number for number in numbers if number in known))


def whole_u16s(data: bytes, what: str) -> tuple[int, ...]:
    """The numbers of a non-empty list with a two-byte length that `data` is."""
    return unpack_u16s(whole_vector16(data, what, 2), what)


def pull_extensions(
    data: bytes, at: int, allowed: Container[int], known: Container[int], what: str
) -> dict[int, bytes]:
    """The extensions from `at` to the end of `data`, in their order, by type."""
    body_start = at + 2
    end = len(data)
    if body_start > end or (data[at] << 8 | data[at + 1]) != end - body_start:
        raise decode_error(f"extensions of {what}")
    extensions: dict[int, bytes] = {}
    at = body_start
    while at < end:
        start = at + 4
        if start > end:
            raise decode_error(f"extensions of {what}")
        kind = data[at] << 8 | data[at + 1]
        at = start + (data[at + 2] << 8 | data[at + 3])
        if at > end:
            raise decode_error(f"extensions of {what}")
        # RFC 8446 section 4.2: no type twice, and no known one in a message that it is not specified for.
        if kind in extensions:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"extension {kind} twice in {what}")
        if kind not in allowed and kind in known:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"extension {kind} in {what}")
        extensions[kind] = data[start:at]
    return extensions


def push_vector8(body: bytes) -> bytes:
    """`body` behind a one-byte length."""
    return len(body).to_bytes(1) + body


def push_vector16(body: bytes) -> bytes:
    """`body` behind a two-byte length."""
    return len(body).to_bytes(2) + body


def push_vector24(body: bytes) -> bytes:
    """`body` behind a three-byte length."""
    return len(body).to_bytes(3) + body


def push_u16s(numbers: tuple[int, ...]) -> bytes:
    """The list of two-byte numbers behind a two-byte length."""
    count = len(numbers)
    return struct.pack(f">{count + 1}H", 2 * count, *numbers)


def push_extension(kind: int, body: bytes) -> bytes:
    """One extension."""
    return struct.pack(">HH", kind, len(body)) + body


def push_message(kind: int, body: bytes) -> bytes:
    """A handshake message with its four-byte header."""
    return (kind << 24 | len(body)).to_bytes(4) + body
