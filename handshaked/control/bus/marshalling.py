"""Values in the D-Bus wire format, encoded and decoded by dbus-next within limits. No I/O.

Input from strangers is bounded in size by the caller of ``unmarshal``, and in number and depth here: decoding takes
time and memory for each value, not for each byte. dbus-next itself has no such limits, and keeps every signature that
it meets; so its reader works on a message that is received already, and gets its signatures from a small cache.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

from dbus_next._private.constants import BIG_ENDIAN, LITTLE_ENDIAN
from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.errors import InvalidSignatureError
from dbus_next.signature import SignatureTree, SignatureType, Variant

from handshaked.errors import RefusedError

__all__ = ["MalformedError", "Variant", "marshal", "types_of", "unmarshal"]
_MAX_DEPTH = 32
_CACHED_SIGNATURES = 64  # strangers choose those of variants
_ORDERS = {"<": LITTLE_ENDIAN, ">": BIG_ENDIAN}
# TypeError: a key of a dictionary that is a list
_MALFORMED = (struct.error, UnicodeDecodeError, TypeError)


class MalformedError(RefusedError):
    """Bytes that are not values of the expected types, or more of them than allowed."""


@lru_cache(_CACHED_SIGNATURES)
def types_of(signature: str) -> tuple[SignatureType, ...]:
    """Return the complete types in `signature`."""
    try:
        types = tuple(SignatureTree(signature).types)
    except (InvalidSignatureError, IndexError) as error:
        raise MalformedError(f"invalid type signature: {error}") from None
    if max(map(_depth, types), default=0) > _MAX_DEPTH:
        raise MalformedError("a type signature is nested too deeply")
    return types


def _depth(kind: SignatureType) -> int:
    return 1 + max(map(_depth, kind.children), default=0)


def unmarshal(signature: str, content: bytes, order: str, limit: int, start: int = 0) -> list[Any]:
    """Return the values of the types `signature` in `content` from `start` on, without variants.

    `order` is ``<`` or ``>``. MalformedError if there are more than `limit` values, those in containers included.
    """
    reader = _Reader(content, order, limit, start)
    try:
        return [reader.read_argument(one) for one in types_of(signature)]
    except _MALFORMED as error:
        raise MalformedError(f"malformed D-Bus message: {type(error).__name__}") from None


class _Reader(Unmarshaller):
    def __init__(self, content: bytes, order: str, limit: int, start: int) -> None:
        super().__init__(BytesIO())
        self.buf = bytearray(content)
        self.offset = start
        self.endian = _ORDERS[order]
        self._left = limit
        self._depth = 0

    def read(self, n: int, prefetch: bool = False) -> int:
        """Return the position of the next `n` bytes, all of which are received already."""
        begin = self.offset
        if begin + n > len(self.buf):
            raise MalformedError("truncated D-Bus message")
        if not prefetch:
            self.offset += n
        return begin

    def read_argument(self, type_: SignatureType) -> Any:
        """Return the next value, which is of type `type_`."""
        self._left -= 1
        if self._left < 0:
            raise MalformedError("too many values in one D-Bus message")
        if self._depth > _MAX_DEPTH:
            raise MalformedError("values are nested too deeply")
        self._depth += 1
        value = super().read_argument(type_)
        self._depth -= 1
        return value

    def read_variant(self, _: SignatureType | None = None) -> Any:
        """Return the value of the next variant."""
        types = types_of(self.read_signature())
        if len(types) != 1:
            raise MalformedError("a variant must have one type")
        return self.read_argument(types[0])


def marshal(signature: str, values: Sequence[Any]) -> bytes:
    """Return `values`, of the types `signature`, in little-endian order. Structs and arrays are lists."""
    return bytes(_Writer(signature, list(values)).marshall())


class _Writer(Marshaller):
    def write_string(self, value: str, _: SignatureType | None = None) -> int:
        """Append `value`. The bus disconnects the sender of a string with a null character, or that is not UTF-8."""
        escaped = value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
        return int(super().write_string(escaped))
