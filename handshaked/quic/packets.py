"""Unprotected packet headers (RFC 8999; RFC 9000 section 17; RFC 9369)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from handshaked.errors import Alert, PeerError

VERSION_1 = 1
VERSION_2 = 0x6B3343CF
VERSIONS = (VERSION_1, VERSION_2)
MAX_CID = 20
"""Longest connection ID of the known versions."""
SMALLEST_INITIAL = 1200
"""Smallest datagram with an Initial packet of a client, in bytes (RFC 9000 section 14.1)."""
_INITIAL_TYPE = {VERSION_1: 0, VERSION_2: 1}
_LONG = 0x80
_ZEROS = re.compile(rb"\0*")


@dataclass(frozen=True, slots=True)
class LongHeader:
    """The fields of a long header that are the same in all versions of QUIC (RFC 8999 section 5.1)."""

    version: int
    destination_cid: bytes
    source_cid: bytes


@dataclass(frozen=True, slots=True)
class InitialPacket:
    """A protected Initial packet in a datagram; `number_offset` is that of the packet number in `packet`."""

    version: int
    destination_cid: bytes
    source_cid: bytes
    token: bytes
    packet: bytes
    number_offset: int


class Reader:
    """Reads bytes in order. PeerError(decode_error) if there are not enough."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def pull(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        end = self.position + length
        if end > len(self.data):
            raise PeerError(Alert.DECODE_ERROR, "truncated QUIC packet")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def pull_integer(self, length: int) -> int:
        """Return the next `length` bytes as a number."""
        return int.from_bytes(self.pull(length))

    def pull_varint(self) -> int:
        """Return the next variable-length integer (RFC 9000 section 16)."""
        first = self.pull_integer(1)
        length = 1 << (first >> 6)
        return (first & 0x3F) << (8 * (length - 1)) | self.pull_integer(length - 1)

    def skip_zeros(self) -> int:
        """Skip zero bytes, and return how many bytes are left."""
        match = _ZEROS.match(self.data, self.position)
        self.position = match.end() if match is not None else self.position
        return self.left

    @property
    def left(self) -> int:
        """The number of bytes left."""
        return len(self.data) - self.position


def push_varint(value: int) -> bytes:
    """Return `value` as a variable-length integer in its shortest form. ValueError if it is too large."""
    for power in range(4):
        if value < 1 << (8 << power) - 2:
            return (power << (8 << power) - 2 | value).to_bytes(1 << power)
    raise ValueError(f"{value} is too large for a variable-length integer")


def pull_long_header(datagram: bytes) -> LongHeader | None:
    """Return the long header at the start of `datagram`; None if it is a short one, or truncated."""
    if len(datagram) < 7 or not datagram[0] & _LONG:
        return None
    destination_end = 6 + datagram[5]
    if destination_end >= len(datagram):
        return None
    source_end = destination_end + 1 + datagram[destination_end]
    if source_end > len(datagram):
        return None
    return LongHeader(
        int.from_bytes(datagram[1:5]), datagram[6:destination_end], datagram[destination_end + 1 : source_end]
    )


def is_initial(datagram: bytes, version: int) -> bool:
    """Return whether the packet at the start of `datagram`, with a long header of a known `version`, is an Initial."""
    return datagram[0] >> 4 & 3 == _INITIAL_TYPE[version]


def pull_token(datagram: bytes, header: LongHeader) -> bytes | None:
    """Return the token of the Initial packet with `header` at the start of `datagram`; None if it is truncated."""
    reader = Reader(datagram, 7 + len(header.destination_cid) + len(header.source_cid))
    try:
        return reader.pull(reader.pull_varint())
    except PeerError:
        return None


def pull_initials(datagram: bytes) -> Iterator[InitialPacket]:
    """Yield the Initial packets of a known version in `datagram`, up to the first malformed packet.

    "Receivers SHOULD ignore any subsequent packets with a different Destination Connection ID than the first packet
    in the datagram" (RFC 9000 section 12.2).
    """
    reader = Reader(datagram)
    first: LongHeader | None = None
    while (header := pull_long_header(datagram[reader.position :])) is not None:
        first = first or header
        if header.version not in VERSIONS or header.destination_cid != first.destination_cid:
            break
        try:
            packet = _pull_packet(reader, header)
        except PeerError:
            break
        if packet is not None:
            yield packet


def _pull_packet(reader: Reader, header: LongHeader) -> InitialPacket | None:
    """Return the packet with `header`, or None if it is of another type; the reader is left after it."""
    if max(len(header.destination_cid), len(header.source_cid)) > MAX_CID:
        raise PeerError(Alert.DECODE_ERROR, f"connection ID of more than {MAX_CID} bytes")
    start = reader.position
    initial = is_initial(reader.data[start : start + 1], header.version)
    reader.pull(7 + len(header.destination_cid) + len(header.source_cid))
    token = reader.pull(reader.pull_varint()) if initial else b""
    length = reader.pull_varint()
    number_offset = reader.position - start
    reader.pull(length)
    if not initial:
        return None
    return InitialPacket(
        header.version,
        header.destination_cid,
        header.source_cid,
        token,
        reader.data[start : reader.position],
        number_offset,
    )
