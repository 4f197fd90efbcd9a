"""Protection of Initial packets, with keys derived from the client's first destination connection ID.

RFC 9001 sections 5.2 to 5.4 and 5.8; RFC 9369 section 3.3 for version 2.
"""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from handshaked.quic.packets import VERSION_1, VERSION_2, InitialPacket, push_varint

_SALTS = {
    VERSION_1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    VERSION_2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
}
_LABELS = {
    VERSION_1: (b"quic key", b"quic iv", b"quic hp"),
    VERSION_2: (b"quicv2 key", b"quicv2 iv", b"quicv2 hp"),
}
_RETRY = {
    version: (AESGCM(bytes.fromhex(key)), bytes.fromhex(nonce))
    for version, key, nonce in (
        (VERSION_1, "be0c690b9f66575a1d766b54e368c84e", "461599d35d632bf2239825bb"),
        (VERSION_2, "8fb4b01b56ac48e260fbcbcead7ccc92", "d86969bc2d7c6d9990efb04a"),
    )
}
_TAG = 16
_SAMPLE = 16
_NUMBER = 4  # length of the packet number in packets that are sent


class InitialKeys:
    """The keys of the Initial packets that one side of a connection sends."""

    def __init__(self, version: int, destination_cid: bytes, *, server: bool = False) -> None:
        side = b"server in" if server else b"client in"
        secret = _expand(hmac.digest(_SALTS[version], destination_cid, "sha256"), side, 32)
        key, iv, header = _LABELS[version]
        self._aead = AESGCM(_expand(secret, key, 16))
        self._iv = int.from_bytes(_expand(secret, iv, 12))
        self._header = Cipher(algorithms.AES(_expand(secret, header, 16)), modes.ECB())  # noqa: S305 - RFC 9001 5.4.3

    def open(self, packet: InitialPacket) -> bytes | None:
        """Return the frames in `packet`; None if it is not protected by these keys."""
        data, offset = packet.packet, packet.number_offset
        sample = data[offset + 4 : offset + 4 + _SAMPLE]
        if len(sample) < _SAMPLE:
            return None
        mask = self._header.encryptor().update(sample)
        first = data[0] ^ mask[0] & 0x0F
        length = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(data[offset : offset + length], mask[1:], strict=False))
        # The first packets have small numbers, which are not truncated.
        nonce = (self._iv ^ int.from_bytes(number)).to_bytes(12)
        header = bytes([first]) + data[1:offset] + number
        try:
            return self._aead.decrypt(nonce, data[offset + length :], header)
        except InvalidTag:
            return None

    def seal(self, header: bytes, number: int, frames: bytes) -> bytes:
        """Return the packet with `header` (up to its length field, packet number length 4) and `frames`."""
        header += push_varint(_NUMBER + len(frames) + _TAG)
        offset = len(header)
        header += number.to_bytes(_NUMBER)
        packet = header + self._aead.encrypt((self._iv ^ number).to_bytes(12), frames, header)
        mask = self._header.encryptor().update(packet[offset + 4 : offset + 4 + _SAMPLE])
        covered = bytes(a ^ b for a, b in zip(packet[offset : offset + _NUMBER], mask[1:], strict=False))
        return bytes([packet[0] ^ mask[0] & 0x0F]) + packet[1:offset] + covered + packet[offset + _NUMBER :]


def retry_tag(version: int, original_cid: bytes, packet: bytes) -> bytes:
    """Return the integrity tag of the Retry `packet` for an Initial to `original_cid` (RFC 9001 section 5.8)."""
    aead, nonce = _RETRY[version]
    return aead.encrypt(nonce, b"", bytes([len(original_cid)]) + original_cid + packet)


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """Return HKDF-Expand-Label with SHA-256 and no context, one block at most (RFC 8446 section 7.1)."""
    info = length.to_bytes(2) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0\1"
    return hmac.digest(secret, info, "sha256")[:length]
