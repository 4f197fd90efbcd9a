"""A client's Initial packets, opened and put together to a ClientHello (RFC 9001 section 5.2, RFC 9369).

Sans-IO. CRYPTO frames may come split, shuffled, repeated or padded, over several datagrams; what is kept is bounded.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_CLIENT_HELLO

_SALTS = {
    1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    0x6B3343CF: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
}
_INITIAL_TYPE = {1: 0, 0x6B3343CF: 1}
_LABELS = {1: (b"quic key", b"quic iv", b"quic hp"), 0x6B3343CF: (b"quicv2 key", b"quicv2 iv", b"quicv2 hp")}
_MAX_CID = 20
_SAMPLE = 16
_MAX_FRAGMENTS = 256
_MAX_BYTES = 2 * MAX_CLIENT_HELLO
_ZEROS = re.compile(rb"\0*")


@dataclass(frozen=True, slots=True)
class InitialPacket:
    """A client's Initial packet as it stands in a datagram: where its parts are, still protected."""

    version: int
    destination_cid: bytes
    source_cid: bytes
    token: bytes
    packet: bytes
    number_offset: int


class _Reader:
    """Reads a packet from the front; PeerError(decode_error) when it ends too soon."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def pull(self, length: int) -> bytes:
        """The next `length` bytes."""
        end = self.position + length
        if end > len(self.data):
            raise PeerError(Alert.DECODE_ERROR, "a QUIC packet ends before its content")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def pull_integer(self, length: int) -> int:
        """The next `length` bytes as a number."""
        return int.from_bytes(self.pull(length))

    def pull_varint(self) -> int:
        """A variable-length integer (RFC 9000 section 16)."""
        first = self.pull_integer(1)
        length = 1 << (first >> 6)
        return (first & 0x3F) << (8 * (length - 1)) | self.pull_integer(length - 1)

    def skip_zeros(self) -> int:
        """Pass over zero bytes; how many bytes are left."""
        match = _ZEROS.match(self.data, self.position)
        self.position = match.end() if match is not None else self.position
        return self.left

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.position


def pull_initials(datagram: bytes) -> list[InitialPacket]:
    """The Initial packets of a known version that `datagram` begins with (RFC 9000 sections 12.2 and 17.2.2)."""
    packets = []
    reader = _Reader(datagram)
    while reader.left and datagram[reader.position] & 0x80:
        start = reader.position
        first = reader.pull_integer(1)
        version = reader.pull_integer(4)
        if version not in _SALTS:
            break
        destination, source = (_pull_cid(reader), _pull_cid(reader))
        is_initial = (first >> 4) & 3 == _INITIAL_TYPE[version]
        token = reader.pull(reader.pull_varint()) if is_initial else b""
        length = reader.pull_varint()
        number_offset = reader.position - start
        reader.pull(length)
        if is_initial:
            packets.append(
                InitialPacket(version, destination, source, token, datagram[start : reader.position], number_offset)
            )
    return packets


class InitialKeys:
    """What protects a client's Initial packets: derived from its first destination connection ID."""

    def __init__(self, version: int, destination_cid: bytes) -> None:
        secret = _expand(hmac.digest(_SALTS[version], destination_cid, "sha256"), b"client in", 32)
        key, iv, header = _LABELS[version]
        self._aead = AESGCM(_expand(secret, key, 16))
        self._iv = int.from_bytes(_expand(secret, iv, 12))
        self._header = Cipher(algorithms.AES(_expand(secret, header, 16)), modes.ECB())  # noqa: S305 - RFC 9001 5.4.3

    def open(self, packet: InitialPacket) -> bytes:
        """The frames in `packet`; PeerError if it is not protected by these keys."""
        data, offset = packet.packet, packet.number_offset
        sample = data[offset + 4 : offset + 4 + _SAMPLE]
        if len(sample) < _SAMPLE:
            raise PeerError(Alert.DECODE_ERROR, "an Initial packet is too short for its header protection")
        mask = self._header.encryptor().update(sample)
        first = data[0] ^ mask[0] & 0x0F
        length = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(data[offset : offset + length], mask[1:], strict=False))
        # A client's first packets have small numbers: what is on the wire is the whole number.
        nonce = (self._iv ^ int.from_bytes(number)).to_bytes(12)
        header = bytes([first]) + data[1:offset] + number
        try:
            return self._aead.decrypt(nonce, data[offset + length :], header)
        except InvalidTag:
            raise PeerError(Alert.DECRYPT_ERROR, "an Initial packet cannot be decrypted") from None


class ClientHelloAssembler:
    """Puts a ClientHello together out of one client's datagrams."""

    def __init__(self) -> None:
        self._keys: InitialKeys | None = None
        self._fragments: dict[int, bytes] = {}
        self._size = 0

    def receive(self, datagram: bytes) -> bytes | None:
        """Take in a datagram; the whole ClientHello with its message header, or None while bytes are missing.

        Raises PeerError for what no QUIC client sends, and beyond the bounds.
        """
        for packet in pull_initials(datagram):
            if self._keys is None:
                self._keys = InitialKeys(packet.version, packet.destination_cid)
            self._pull_frames(self._keys.open(packet))
        return self._message()

    def _pull_frames(self, payload: bytes) -> None:
        reader = _Reader(payload)
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
        if offset + len(data) > 4 + MAX_CLIENT_HELLO or len(self._fragments) >= _MAX_FRAGMENTS:
            raise PeerError(Alert.DECODE_ERROR, "the ClientHello is too large, or in too many pieces")
        known = len(self._fragments.get(offset, b""))
        if len(data) <= known:
            return
        self._size += len(data) - known
        if self._size > _MAX_BYTES:
            raise PeerError(Alert.DECODE_ERROR, "the pieces of the ClientHello overlap too much")
        self._fragments[offset] = data

    def _message(self) -> bytes | None:
        stream = bytearray()
        for offset in sorted(self._fragments):
            if offset > len(stream):
                break
            stream += self._fragments[offset][len(stream) - offset :]
        if len(stream) < 4:
            return None
        end = 4 + int.from_bytes(stream[1:4])
        if end > 4 + MAX_CLIENT_HELLO:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"a ClientHello of {end} bytes")
        return bytes(stream[:end]) if len(stream) >= end else None


def _pull_cid(reader: _Reader) -> bytes:
    length = reader.pull_integer(1)
    if length > _MAX_CID:
        raise PeerError(Alert.DECODE_ERROR, f"a connection ID of {length} bytes")
    return reader.pull(length)


def _skip_ack(reader: _Reader, *, ecn: bool) -> None:
    reader.pull_varint()
    reader.pull_varint()
    ranges = reader.pull_varint()
    if ranges > reader.left:
        raise PeerError(Alert.DECODE_ERROR, "an ACK frame with more ranges than bytes")
    for _ in range(1 + 2 * ranges + (3 if ecn else 0)):
        reader.pull_varint()


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with SHA-256 and no context (RFC 8446 section 7.1), for one block at most."""
    info = length.to_bytes(2) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0\1"
    return hmac.digest(secret, info, hashlib.sha256)[:length]
