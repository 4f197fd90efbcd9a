"""Assemble a ClientHello from a client's Initial packets (RFC 9000 sections 12.4, 17.2.2 and 19.6).

Sans-IO. CRYPTO frames may be split, reordered, repeated or padded, over several datagrams; memory is bounded.
"""

from bisect import bisect_left
from itertools import islice

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_CLIENT_HELLO
from handshaked.quic.packets import Reader, pull_initials
from handshaked.quic.protection import InitialKeys

_CLIENT_HELLO = 1
_HEADER = 4
_MAX_FRAMES = 1024  # of all packets of a connection, and ranges in its ACK frames; padding does not count
_MAX_PACKETS = 16  # of one datagram that are opened; a client coalesces one or two
_MAX_MISSES = 4  # of these that do not open; a client has no reason to send any


class ClientHelloAssembler:
    """Assembles one ClientHello of at most `limit` bytes from a client's datagrams.

    The first authentic Initial packet determines the connection: its keys remain, also if the client changes the
    destination connection ID. Packets that are not authentic are ignored: anyone may send them.
    """

    __slots__ = ("_covered", "_frames", "_keys", "_limit", "_stream", "connection")

    def __init__(self, limit: int = _HEADER + MAX_CLIENT_HELLO) -> None:
        self.connection: tuple[int, bytes] | None = None
        """Version and destination connection ID, after the first authentic packet."""
        self._limit = limit
        self._keys: InitialKeys | None = None
        self._stream = bytearray()
        self._covered: list[tuple[int, int]] = []  # received ranges of the stream: from, to; sorted, disjoint
        self._frames = 0

    @property
    def bytes_kept(self) -> int:
        """The size of the stream so far in bytes, gaps included."""
        return len(self._stream)

    def receive(self, datagram: bytes) -> bytes | None:
        """Process a datagram; return the complete ClientHello with its header, or None while bytes are missing.

        PeerError for authentic packets that violate the protocol or the limits.
        """
        misses = 0
        tried: tuple[int, bytes] | None = None  # the connection that `keys` are for; anyone can make us derive them
        keys = self._keys
        for packet in islice(pull_initials(datagram), _MAX_PACKETS):
            connection = self.connection or (packet.version, packet.destination_cid)
            if keys is None or connection != (self.connection or tried):
                keys, tried = InitialKeys(*connection), connection
            frames = keys.open(packet)
            if frames is not None:
                self._keys, self.connection = keys, connection
                self._pull_frames(frames)
                continue
            misses += 1
            if misses >= _MAX_MISSES:
                break
        return self._message()

    def _pull_frames(self, payload: bytes) -> None:
        reader = Reader(payload)
        while reader.skip_zeros():  # PADDING
            self._count_frames(1)
            kind = reader.pull_varint()
            if kind == 0x06:
                offset = reader.pull_varint()
                self._keep(offset, reader.pull(reader.pull_varint()))
            elif kind in (0x02, 0x03):
                self._skip_ack(reader, ecn=kind == 0x03)
            elif kind == 0x1C:
                raise PeerError(Alert.USER_CANCELED, "the client closed the connection in its Initial")
            elif kind != 0x01:  # PING
                raise PeerError(Alert.DECODE_ERROR, f"frame type {kind:#x} in an Initial packet")

    def _count_frames(self, count: int) -> None:
        self._frames += count
        if self._frames > _MAX_FRAMES:
            raise PeerError(Alert.DECODE_ERROR, f"more than {_MAX_FRAMES} frames before the end of the ClientHello")

    def _skip_ack(self, reader: Reader, *, ecn: bool) -> None:
        reader.pull_varint()
        reader.pull_varint()
        ranges = reader.pull_varint()
        self._count_frames(ranges)
        for _ in range(1 + 2 * ranges + (3 if ecn else 0)):
            reader.pull_varint()

    def _keep(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > self._limit:
            raise PeerError(Alert.DECODE_ERROR, f"the ClientHello is larger than {self._limit} bytes")
        if not data:
            return
        if end > len(self._stream):
            self._stream.extend(bytes(end - len(self._stream)))
        low = high = bisect_left(self._covered, offset, key=lambda interval: interval[1])
        start, stop = offset, end
        while high < len(self._covered) and self._covered[high][0] <= end:
            known = self._covered[high]
            self._compare(max(known[0], offset), min(known[1], end), offset, data)
            start, stop = min(start, known[0]), max(stop, known[1])
            high += 1
        self._covered[low:high] = [(start, stop)]
        self._stream[offset:end] = data

    def _compare(self, start: int, end: int, offset: int, data: bytes) -> None:
        # Another reader of the stream must not see another ClientHello than the one that is routed.
        if self._stream[start:end] != data[start - offset : end - offset]:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "inconsistent CRYPTO frames")

    def _message(self) -> bytes | None:
        if not self._covered or self._covered[0][0] != 0:
            return None
        if self._stream[0] != _CLIENT_HELLO:
            raise PeerError(
                Alert.UNEXPECTED_MESSAGE, f"handshake message of type {self._stream[0]} instead of a ClientHello"
            )
        received = self._covered[0][1]
        if received < _HEADER:
            return None
        end = _HEADER + int.from_bytes(self._stream[1:_HEADER])
        if end > self._limit:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"ClientHello of {end} bytes, the limit is {self._limit}")
        return bytes(self._stream[:end]) if received >= end else None
