"""A strict codec for vectors and lists of the TLS presentation language (RFC 8446 section 3).

A ``pull_x`` takes bytes and an offset, and returns the value and the offset after it; a ``whole_x`` takes bytes that
are exactly that value; a ``push_x`` returns bytes. They raise PeerError(decode_error).
"""

import struct
from collections.abc import Container

from handshaked.errors import Alert, PeerError

_MANY = 256


class MisplacedExtensionError(PeerError):
    """The peer sent a known extension, ``kind``, in a message that it is not specified for (RFC 8446 section 4.2)."""

    def __init__(self, kind: int, what: str) -> None:
        super().__init__(Alert.ILLEGAL_PARAMETER, f"extension {kind} in {what}")
        self.kind = kind


def decode_error(what: str) -> PeerError:
    """Return the error for malformed bytes; `what` names them (RFC 8446 section 6.2)."""
    return PeerError(Alert.DECODE_ERROR, f"malformed {what}")


def pull_vector8(data: bytes, at: int, what: str, minimum: int = 0) -> tuple[bytes, int]:
    """Return the vector with a one-byte length, of at least `minimum` bytes, and the offset after it."""
    start = at + 1
    if start > len(data):
        raise decode_error(what)
    end = start + data[at]
    if end > len(data) or end - start < minimum:
        raise decode_error(what)
    return data[start:end], end


def pull_vector16(data: bytes, at: int, what: str, minimum: int = 0) -> tuple[bytes, int]:
    """Return the vector with a two-byte length, of at least `minimum` bytes, and the offset after it."""
    start = at + 2
    if start > len(data):
        raise decode_error(what)
    end = start + (data[at] << 8 | data[at + 1])
    if end > len(data) or end - start < minimum:
        raise decode_error(what)
    return data[start:end], end


def pull_vector24(data: bytes, at: int, what: str, minimum: int = 0) -> tuple[bytes, int]:
    """Return the vector with a three-byte length, of at least `minimum` bytes, and the offset after it."""
    start = at + 3
    if start > len(data):
        raise decode_error(what)
    end = start + int.from_bytes(data[at:start])
    if end > len(data) or end - start < minimum:
        raise decode_error(what)
    return data[start:end], end


def whole_vector8(data: bytes, what: str, minimum: int = 0) -> bytes:
    """Return the vector with a one-byte length that fills `data`."""
    if len(data) < 1 + minimum or data[0] != len(data) - 1:
        raise decode_error(what)
    return data[1:]


def whole_vector16(data: bytes, what: str, minimum: int = 0) -> bytes:
    """Return the vector with a two-byte length that fills `data`."""
    if len(data) < 2 + minimum or (data[0] << 8 | data[1]) != len(data) - 2:
        raise decode_error(what)
    return data[2:]


def unpack_u16s(body: bytes, what: str) -> tuple[int, ...]:
    """Return the two-byte numbers in `body`."""
    count, odd = divmod(len(body), 2)
    if odd:
        raise decode_error(what)
    return struct.unpack(f">{count}H", body)


def known_among(numbers: tuple[int, ...], known: Container[int]) -> tuple[int, ...]:
    """Return `numbers`; if there are more than 256, only the `known` ones, to bound memory."""
    if len(numbers) <= _MANY:
        return numbers
    return tuple(dict.fromkeys(number for number in numbers if number in known))


def whole_u16s(data: bytes, what: str) -> tuple[int, ...]:
    """Return the numbers of the non-empty list with a two-byte length that fills `data`."""
    return unpack_u16s(whole_vector16(data, what, 2), what)


def pull_extensions(
    data: bytes, at: int, allowed: Container[int], known: Container[int], what: str
) -> dict[int, bytes]:
    """Return the extensions from `at` to the end of `data` by type, in order.

    PeerError for malformed or repeated ones, and for `known` ones that are not `allowed` in the message `what`.
    """
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
        # RFC 8446 section 4.2: no type twice, and no known type in a message that it is not specified for.
        if kind in extensions:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"extension {kind} twice in {what}")
        if kind not in allowed and kind in known:
            raise MisplacedExtensionError(kind, what)
        extensions[kind] = data[start:at]
    return extensions


def push_vector8(body: bytes) -> bytes:
    """Return `body` after a one-byte length."""
    return len(body).to_bytes(1) + body


def push_vector16(body: bytes) -> bytes:
    """Return `body` after a two-byte length."""
    return len(body).to_bytes(2) + body


def push_vector24(body: bytes) -> bytes:
    """Return `body` after a three-byte length."""
    return len(body).to_bytes(3) + body


def push_u16s(numbers: tuple[int, ...]) -> bytes:
    """Return the list of two-byte numbers after a two-byte length."""
    count = len(numbers)
    return struct.pack(f">{count + 1}H", 2 * count, *numbers)


def push_extension(kind: int, body: bytes) -> bytes:
    """Return an extension."""
    return struct.pack(">HH", kind, len(body)) + body


def push_message(kind: int, body: bytes) -> bytes:
    """Return a handshake message with its four-byte header."""
    return (kind << 24 | len(body)).to_bytes(4) + body
