"""A client's Initial packets, put together to a ClientHello (RFC 9000 sections 12.4, 17.2.2 and 19.6).

Sans-IO. CRYPTO frames may come split, shuffled, repeated or padded, over several datagrams; what is kept is bounded.
"""

from bisect import bisect_left
from collections.abc import Iterable

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_CLIENT_HELLO
from handshaked.quic.packets import InitialPacket, Reader, pull_initials
from handshaked.quic.protection import InitialKeys

_CLIENT_HELLO = 1
_HEADER = 4
_MAX_FRAMES = 1024


class ClientHelloAssembler:
    """Puts one ClientHello, of `limit` bytes at most, together out of a client's datagrams.

    The first Initial packet that opens decides which connection this is: its keys hold, also when the client calls the
    server by another connection ID. What does not open is passed over: anyone may send such things from anywhere.
    """

    __slots__ = ("_covered", "_frames", "_keys", "_limit", "_stream", "connection")

    def __init__(self, limit: int = _HEADER + MAX_CLIENT_HELLO) -> None:
        self.connection: tuple[int, bytes] | None = None
        """Version and destination connection ID, once a packet has opened."""
        self._limit = limit
        self._keys: InitialKeys | None = None
        self._stream = bytearray()
        self._covered: list[tuple[int, int]] = []  # what of the stream is there: from, to; in order, apart
        self._frames = 0

    @property
    def bytes_kept(self) -> int:
        """Bytes that the stream takes so far, gaps included."""
        return len(self._stream)

    def receive(self, datagram: bytes) -> bytes | None:
        """Take in a datagram; the whole ClientHello with its message header, or None while bytes are missing.

        PeerError for what the connection's own client sent and no client may send, or beyond the bounds.
        """
        return self.receive_packets(pull_initials(datagram))

    def receive_packets(self, packets: Iterable[InitialPacket]) -> bytes | None:
        """The same with the Initial packets of a datagram."""
        for packet in packets:
            connection = self.connection or (packet.version, packet.destination_cid)
            keys = self._keys or InitialKeys(*connection)
            frames = keys.open(packet)
            if frames is not None:
                self._keys, self.connection = keys, connection
                self._pull_frames(frames)
        return self._message()

    def _pull_frames(self, payload: bytes) -> None:
        reader = Reader(payload)
        while reader.skip_zeros():  # PADDING
            kind = reader.pull_varint()
            if kind == 0x06:
                offset = reader.pull_varint()
                self._keep(offset, reader.pull(reader.pull_varint()))
            elif kind in (0x02, 0x03):
                _skip_ack(reader, ecn=kind == 0x03)
            elif kind == 0x1C:
                raise PeerError(Alert.USER_CANCELED, "the client closed the connection in its Initial")
            elif kind != 0x01:  # PING
                raise PeerError(Alert.DECODE_ERROR, f"frame type {kind:#x} in an Initial packet")

    def _keep(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self._frames += 1
        if end > self._limit or self._frames > _MAX_FRAMES:
            raise PeerError(Alert.DECODE_ERROR, "the ClientHello is too large, or in too many pieces")
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
        # Whoever reads the stream otherwise than we do must not end up at a server that we did not choose.
        if self._stream[start:end] != data[start - offset : end - offset]:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "CRYPTO frames contradict each other")

    def _message(self) -> bytes | None:
        if not self._covered or self._covered[0][0] != 0:
            return None
        if self._stream[0] != _CLIENT_HELLO:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"handshake message {self._stream[0]} for a ClientHello")
        there = self._covered[0][1]
        if there < _HEADER:
            return None
        end = _HEADER + int.from_bytes(self._stream[1:_HEADER])
        if end > self._limit:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"a ClientHello of {end} bytes")
        return bytes(self._stream[:end]) if there >= end else None


def _skip_ack(reader: Reader, *, ecn: bool) -> None:
    reader.pull_varint()
    reader.pull_varint()
    ranges = reader.pull_varint()
    if ranges > reader.left:
        raise PeerError(Alert.DECODE_ERROR, "an ACK frame with more ranges than bytes")
    for _ in range(1 + 2 * ranges + (3 if ecn else 0)):
        reader.pull_varint()
