"""Retry tokens: that a client gets our answers at its address, and what it first called us, with no state kept."""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"hs-retry"  # servers give tokens of their own out as well (NEW_TOKEN): ours are told by this
_NONCE = 12
_SECONDS = 10.0
_TIME = struct.Struct("!d")


class RetryTokens:
    """Makes tokens, and opens those that it made; a new one knows none of its predecessor's."""

    def __init__(self) -> None:
        self._aead = AESGCM(AESGCM.generate_key(128))

    def seal(self, peer: str, original_cid: bytes, retry_cid: bytes, now: float) -> bytes:
        """A token for the client at `peer`, whose Initial to `original_cid` is told to come to `retry_cid`."""
        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + self._aead.encrypt(nonce, _TIME.pack(now) + original_cid, _bound(peer, retry_cid))

    @staticmethod
    def is_ours(token: bytes) -> bool:
        """Whether `token` came with a Retry of a demultiplexer's, be it this one or its predecessor."""
        return token.startswith(_MAGIC)

    def open(self, token: bytes, peer: str, retry_cid: bytes, now: float) -> bytes | None:
        """The original connection ID in a token of ours; None if it is too old, or not for this client."""
        sealed = token[len(_MAGIC) :]
        try:
            content = self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(peer, retry_cid))
        except (InvalidTag, ValueError):
            return None
        return content[_TIME.size :] if now - _TIME.unpack_from(content)[0] <= _SECONDS else None


def _bound(peer: str, retry_cid: bytes) -> bytes:
    return peer.encode() + b"\0" + retry_cid
