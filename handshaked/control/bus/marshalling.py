"""The D-Bus wire format of values (D-Bus specification, "Marshaling"). No I/O.

What strangers send is bounded in size by the caller of ``unmarshal``, and in number and depth here: decoding takes time
and memory for each value, not for each byte.
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from handshaked.errors import RefusedError

MAX_SIGNATURE = 255
_MAX_DEPTH = 32
_CACHED_SIGNATURES = 64  # strangers choose those of variants
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I", "b": "I"}
_ALIGNMENT = {
    **{code: struct.calcsize(f"={kind}") for code, kind in _FIXED.items()},
    **dict.fromkeys("soa", 4), **dict.fromkeys("gv", 1), **dict.fromkeys("({", 8),
}  # fmt: skip
_STRUCTS = {
    order: {code: struct.Struct(f"{order}{kind}").unpack_from for code, kind in _FIXED.items()} for order in "<>"
}


class MalformedError(RefusedError):
    """Bytes that are not values of the expected types, or more of them than allowed."""


class Type(NamedTuple):
    """A complete type: its code, and the types in it. A dictionary is an array of ``{``."""

    code: str
    inner: "tuple[Type, ...]" = ()


class Variant(NamedTuple):
    """A value to marshal with its type. Received variants are plain values."""

    signature: str
    value: Any


@lru_cache(_CACHED_SIGNATURES)
def types_of(signature: str) -> tuple[Type, ...]:
    """Return the complete types in `signature`."""
    if len(signature) > MAX_SIGNATURE:
        raise MalformedError("a type signature is too long")
    types, position = [], 0
    while position < len(signature):
        one, position = _pull_type(signature, position, 0)
        types.append(one)
    return tuple(types)


def _pull_type(signature: str, position: int, depth: int) -> tuple[Type, int]:
    code = signature[position : position + 1]
    position += 1
    if depth > _MAX_DEPTH:
        raise MalformedError("a type signature is nested too deeply")
    if code == "a":
        inner, position = _pull_type(signature, position, depth + 1)
        return Type(code, (inner,)), position
    if code not in ("(", "{"):
        if code not in _ALIGNMENT:
            raise MalformedError("invalid type signature")
        return Type(code), position
    end, parts = ")}"[code == "{"], []
    while signature[position : position + 1] != end:
        one, position = _pull_type(signature, position, depth + 1)
        parts.append(one)
    if not parts or (code == "{" and len(parts) != 2):
        raise MalformedError("invalid type signature")
    return Type(code, tuple(parts)), position + 1


def unmarshal(signature: str, content: bytes, order: str, limit: int, start: int = 0) -> list[Any]:
    """Return the values of the types `signature` in `content` from `start` on, without variants.

    `order` is ``<`` or ``>``. MalformedError if there are more than `limit` values, those in containers included.
    """
    reader = _Reader(content, order, limit, start)
    try:
        return [reader.pull(one, 0) for one in types_of(signature)]
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:  # TypeError: a key that is a list
        raise MalformedError(f"malformed D-Bus message: {type(error).__name__}") from None


class _Reader:
    def __init__(self, content: bytes, order: str, limit: int, start: int) -> None:
        self._content = content
        self._unpack = _STRUCTS[order]
        self._left = limit
        self._position = start

    def pull(self, kind: Type, depth: int) -> Any:
        """Return the next value, which is of type `kind`."""
        self._left -= 1
        if self._left < 0:
            raise MalformedError("too many values in one D-Bus message")
        if depth > _MAX_DEPTH:
            raise MalformedError("values are nested too deeply")
        code = kind.code
        if code in _FIXED:
            self._align(_ALIGNMENT[code])
            [value] = self._unpack[code](self._content, self._position)
            self._position += _ALIGNMENT[code]
            return bool(value) if code == "b" else value
        if code in "so":
            return self._take(self._length(), end=1).decode()
        if code == "g":
            return self._signature()
        if code == "v":
            types = types_of(self._signature())
            if len(types) != 1:
                raise MalformedError("a variant must have one type")
            return self.pull(types[0], depth + 1)
        if code == "a":
            return self._array(kind.inner[0], depth)
        self._align(8)
        return [self.pull(one, depth + 1) for one in kind.inner]

    def _array(self, kind: Type, depth: int) -> Any:
        length = self._length()
        self._align(_ALIGNMENT[kind.code])
        if kind.code == "y":
            return self._take(length)
        end = self._position + length
        if end > len(self._content):
            raise IndexError
        values = []
        while self._position < end:
            values.append(self.pull(kind, depth + 1))
        return dict(values) if kind.code == "{" else values

    def _length(self) -> int:
        self._align(4)
        [length] = self._unpack["u"](self._content, self._position)
        self._position += 4
        return int(length)

    def _signature(self) -> str:
        length = self._content[self._position]
        self._position += 1
        return self._take(length, end=1).decode()

    def _take(self, length: int, end: int = 0) -> bytes:
        """Return the next `length` bytes; skip them and `end` more."""
        start = self._position
        self._position += length + end
        if self._position > len(self._content):
            raise IndexError
        return self._content[start : start + length]

    def _align(self, size: int) -> None:
        self._position = (self._position + size - 1) & -size


def marshal(signature: str, values: Sequence[Any]) -> bytes:
    """Return `values`, of the types `signature`, in little-endian order."""
    buffer = bytearray()
    for one, value in zip(types_of(signature), values, strict=True):
        _push(buffer, one, value)
    return bytes(buffer)


def _push(buffer: bytearray, kind: Type, value: Any) -> None:
    code = kind.code
    if code in _FIXED:
        _pad(buffer, _ALIGNMENT[code])
        buffer += struct.pack(f"<{_FIXED[code]}", value)
    elif code in _PUSH:
        _PUSH[code](buffer, value)
    elif code == "a":
        _push_array(buffer, kind.inner[0], value)
    else:
        _pad(buffer, 8)
        for one, part in zip(kind.inner, value, strict=True):
            _push(buffer, one, part)


def _push_array(buffer: bytearray, kind: Type, value: Any) -> None:
    _pad(buffer, 4)
    at = len(buffer)
    buffer += bytes(4)
    _pad(buffer, _ALIGNMENT[kind.code])
    start = len(buffer)
    for one in value.items() if kind.code == "{" else value:
        _push(buffer, kind, one)
    struct.pack_into("<I", buffer, at, len(buffer) - start)


def _push_string(buffer: bytearray, value: str) -> None:
    """Append `value`. The bus disconnects the sender of a string with a null character, or that is not UTF-8."""
    encoded = value.replace("\0", "\\x00").encode(errors="backslashreplace")
    _pad(buffer, 4)
    buffer += struct.pack("<I", len(encoded)) + encoded + b"\0"


def _push_signature(buffer: bytearray, value: str) -> None:
    buffer += bytes([len(value)]) + value.encode("ascii") + b"\0"


def _push_variant(buffer: bytearray, value: Variant) -> None:
    _push_signature(buffer, value.signature)
    [kind] = types_of(value.signature)
    _push(buffer, kind, value.value)


_PUSH: dict[str, Callable[[bytearray, Any], None]] = {
    "s": _push_string, "o": _push_string, "g": _push_signature, "v": _push_variant,
}  # fmt: skip


def _pad(buffer: bytearray, size: int) -> None:
    buffer += bytes(-len(buffer) % size)
