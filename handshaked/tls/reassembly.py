"""Reassemble handshake messages from CRYPTO bytes, with a limit on their size, at the expected level only."""

from handshaked.errors import Alert, PeerError, QuicViolationError
from handshaked.model import MAX_CLIENT_HELLO, MAX_HANDSHAKE_MESSAGE, Level
from handshaked.tls.codepoints import HandshakeType

_HEADER = 4
_TOO_LONG: dict[int, Alert] = {
    HandshakeType.CERTIFICATE: Alert.BAD_CERTIFICATE,
    HandshakeType.COMPRESSED_CERTIFICATE: Alert.BAD_CERTIFICATE,
    HandshakeType.FINISHED: Alert.DECODE_ERROR,
}


class MessageReassembler:
    """Splits the byte streams of the encryption levels into handshake messages (RFC 8446 section 4).

    One level is expected at a time; ``expect`` changes it. Bytes at another level, and bytes left when the keys
    change, are an unexpected_message over TCP (RFC 8446 section 5.1), and a PROTOCOL_VIOLATION over QUIC (RFC 9001
    sections 4.1.3 and, for 0-RTT, 8.3).
    """

    __slots__ = ("_buffer", "_level")

    def __init__(self, level: Level) -> None:
        self._level = level
        self._buffer = bytearray()

    def receive(self, level: Level, data: bytes) -> None:
        """Add `data` received at `level`. PeerError if another level is expected."""
        if level is not self._level:
            raise QuicViolationError(
                Alert.UNEXPECTED_MESSAGE,
                f"handshake data at level {level.name.lower()}, expected {self._level.name.lower()}",
            )
        self._buffer += data

    def next_type(self) -> int | None:
        """Return the type of the next message, or None if none of its bytes has been received."""
        return self._buffer[0] if self._buffer else None

    def pull(self) -> bytes | None:
        """Return the next complete message with its four-byte header, or None if more bytes are needed.

        PeerError if it is too long.
        """
        if len(self._buffer) < _HEADER:
            return None
        length = int.from_bytes(self._buffer[1:_HEADER])
        if length > MAX_HANDSHAKE_MESSAGE:
            self._check_length(length)
        end = _HEADER + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[:end])
        del self._buffer[:end]
        return message

    def _check_length(self, length: int) -> None:
        kind = self._buffer[0]
        limit = MAX_CLIENT_HELLO if kind == HandshakeType.CLIENT_HELLO else MAX_HANDSHAKE_MESSAGE
        if length > limit:
            raise PeerError(
                _TOO_LONG.get(kind, Alert.ILLEGAL_PARAMETER),
                f"handshake message of {length} bytes, the limit is {limit}",
            )

    def expect(self, level: Level) -> None:
        """Expect messages at `level` from now on."""
        if level is not self._level:
            self.expect_boundary()
            self._level = level

    def expect_boundary(self) -> None:
        """Check that no bytes are left: the sender changes its keys here, or must wait for an answer."""
        if self._buffer:
            raise QuicViolationError(
                Alert.UNEXPECTED_MESSAGE,
                f"{len(self._buffer)} bytes left at level {self._level.name.lower()} at its end",
            )
