"""D-Bus messages, and the stream of bytes that carries them (D-Bus specification, "Message Format"). No I/O.

The body of a message stays bytes until somebody who knows what it must be, and whose it is, unmarshals it.
"""

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from handshaked.control.bus.marshalling import MalformedError, Variant, marshal, unmarshal

MAX_BODY = 64 * 1024
"""Longer bodies are skipped, not stored."""
MAX_FIELDS = 8 * 1024
"""A message with more bytes of header fields is skipped: only its path can be that long."""
_MAX_FIELD_VALUES = 64
_FIXED_SIZE = 16
_VERSION = 1
_MAX_MESSAGE = 128 * 1024 * 1024
_OVERHEAD = 256


class Kind(enum.IntEnum):
    """Message types."""

    METHOD_CALL = 1
    METHOD_RETURN = 2
    ERROR = 3
    SIGNAL = 4


class Flag(enum.IntFlag):
    """Message flags."""

    NONE = 0
    NO_REPLY_EXPECTED = 1
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


_FLAGS = Flag.NO_REPLY_EXPECTED | Flag.ALLOW_INTERACTIVE_AUTHORIZATION


class _Field(enum.IntEnum):
    PATH = 1
    INTERFACE = 2
    MEMBER = 3
    ERROR_NAME = 4
    REPLY_SERIAL = 5
    DESTINATION = 6
    SENDER = 7
    SIGNATURE = 8
    UNIX_FDS = 9


_NUMBERS = (_Field.REPLY_SERIAL, _Field.UNIX_FDS)
_FIELD_TYPES = {_Field.PATH: "o", _Field.SIGNATURE: "g", **dict.fromkeys(_NUMBERS, "u")}  # the others: s
_NAMES = {int(one): one.name.lower() for one in _Field if one is not _Field.UNIX_FDS}


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send: ``body`` are the values of the types ``signature``, ``files`` how many files are attached."""

    kind: Kind
    destination: str | None = None
    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    reply_serial: int | None = None
    signature: str = ""
    body: Sequence[Any] = ()
    flags: Flag = Flag.NONE
    files: int = 0

    def marshal(self, serial: int) -> bytes:
        """Return the bytes of this message with the number `serial`."""
        body = marshal(self.signature, self.body)
        values = {
            _Field.PATH: self.path,
            _Field.INTERFACE: self.interface,
            _Field.MEMBER: self.member,
            _Field.ERROR_NAME: self.error_name,
            _Field.REPLY_SERIAL: self.reply_serial,
            _Field.DESTINATION: self.destination,
            _Field.SIGNATURE: self.signature,
            _Field.UNIX_FDS: self.files,
        }
        fields = [[one, Variant(_FIELD_TYPES.get(one, "s"), value)] for one, value in values.items() if value]
        header = marshal("yyyyuua(yv)", (ord("l"), self.kind, self.flags, _VERSION, len(body), serial, fields))
        return header + bytes(-len(header) % 8) + body


@dataclass(frozen=True, slots=True)
class Received:
    """A received message.

    ``kind`` is a ``Kind``, or 0 if the header fields are malformed or longer than ``MAX_FIELDS``. ``body`` is None if
    it was longer than ``MAX_BODY``. ``descriptors`` are the files attached, which the receiver must close.
    """

    kind: int
    flags: Flag
    serial: int
    order: str
    body: bytes | None = None
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    descriptors: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of memory it takes, more or less."""
        return _OVERHEAD + len(self.path) + len(self.body or b"")

    def values(self, signature: str, limit: int) -> list[Any]:
        """Return the body as values of the types `signature`; MalformedError if it is something else or too much."""
        if self.signature != signature:
            raise MalformedError(f"the message has the signature ({self.signature}) instead of ({signature})")
        if self.body is None:
            raise MalformedError(f"the message is longer than {MAX_BODY} bytes")
        return unmarshal(signature, self.body, self.order, limit)

    def returning(self, signature: str = "", *body: Any) -> Message:
        """Return the reply with the results `body`."""
        return Message(
            Kind.METHOD_RETURN, destination=self.sender, reply_serial=self.serial, signature=signature, body=body
        )

    def failing(self, name: str, text: str) -> Message:
        """Return the reply with the error `name`."""
        return Message(Kind.ERROR, self.sender, error_name=name, reply_serial=self.serial, signature="s", body=(text,))


class MessageStream:
    """Cuts received bytes into messages, and stores no more than one of them: what is too long is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: tuple[int, ...] = ()
        self._skip = 0

    @property
    def skipping(self) -> bool:
        """True if the next bytes are discarded."""
        return self._skip > 0

    def receive(self, chunk: bytes, descriptors: tuple[int, ...] = ()) -> list[Received]:
        """Return the messages that are complete with `chunk`; MalformedError if these are no messages.

        `descriptors` came with the chunk, and belong to the message of its last byte: a read from a stream socket ends
        with the first packet that has descriptors (unix(7)), and the bus begins each message with a new packet.
        """
        buffer = self._buffer
        buffer += chunk
        found = []
        while True:
            if self._skip:
                skipped = min(self._skip, len(buffer))
                del buffer[:skipped]
                self._skip -= skipped
            if len(buffer) < _FIXED_SIZE:
                break
            needed, skip = _sizes(buffer)
            if len(buffer) < needed:
                break
            content = bytes(buffer[:needed])
            del buffer[:needed]
            attached, self._descriptors = self._descriptors, ()
            if len(buffer) <= skip:
                attached, descriptors = attached + descriptors, ()
            self._skip = skip
            found.append(_parsed(content, attached, whole=not skip))
        self._descriptors += descriptors
        return found

    def close(self) -> tuple[int, ...]:
        """Return the descriptors of an incomplete message."""
        return self._descriptors


def _sizes(buffer: bytearray) -> tuple[int, int]:
    """Return how many bytes of the message at the start of `buffer` to store, and how many after them to skip."""
    order = _order(buffer)
    body, _, fields = struct.unpack_from(f"{order}III", buffer, 4)
    if buffer[3] != _VERSION or max(body, fields) > _MAX_MESSAGE:
        raise MalformedError("the bus sent a malformed message")
    header = _FIXED_SIZE + fields + -fields % 8
    if fields > MAX_FIELDS:
        return _FIXED_SIZE, header - _FIXED_SIZE + body
    return (header, body) if body > MAX_BODY else (header + body, 0)


def _order(content: bytes | bytearray) -> str:
    try:
        return {ord("l"): "<", ord("B"): ">"}[content[0]]
    except KeyError:
        raise MalformedError("the bus sent a message of unknown byte order") from None


def _parsed(content: bytes, descriptors: tuple[int, ...], *, whole: bool) -> Received:
    """Return the message with the header, and if it is `whole` the body, in `content`."""
    order = _order(content)
    serial, size = struct.unpack_from(f"{order}II", content, 8)
    message = Received(content[1], Flag(content[2] & _FLAGS), serial, order, descriptors=descriptors)
    if size > MAX_FIELDS:
        return replace(message, kind=0)
    try:
        [fields] = unmarshal("a(yv)", content, order, _MAX_FIELD_VALUES, 12)
    except MalformedError:
        return replace(message, kind=0)
    values = {_NAMES[code]: value for code, value in fields if code in _NAMES}
    if any(isinstance(value, int) is not (name == "reply_serial") for name, value in values.items()):
        return replace(message, kind=0)
    body = content[_FIXED_SIZE + size + -size % 8 :] if whole else None
    return replace(message, body=body, **values)
