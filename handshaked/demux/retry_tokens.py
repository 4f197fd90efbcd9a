"""Retry tokens: stateless proof of a client's address, carrying its original connection ID (RFC 9000 section 8.1)."""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"hs-retry"  # tells our tokens from those that servers issue (NEW_TOKEN)
_NONCE = 12
_LIFETIME_SECONDS = 10.0
_TIME = struct.Struct("!d")


class RetryTokens:
    """Issues and opens tokens under a random key, so that tokens of another process do not open."""

    def __init__(self) -> None:
        self._aead = AESGCM(AESGCM.generate_key(128))

    def seal(self, peer: str, original_cid: bytes, retry_cid: bytes, now: float) -> bytes:
        """Return a token for the client at `peer`, whose Initial to `original_cid` is redirected to `retry_cid`."""
        nonce = os.urandom(_NONCE)
        associated = _associated_data(peer, retry_cid)
        return _MAGIC + nonce + self._aead.encrypt(nonce, _TIME.pack(now) + original_cid, associated)

    @staticmethod
    def is_ours(token: bytes) -> bool:
        """Return whether `token` looks like one of a demultiplexer's Retry, of this process or of another one."""
        return token.startswith(_MAGIC)

    def open(self, token: bytes, peer: str, retry_cid: bytes, now: float) -> bytes | None:
        """Return the original connection ID in `token`; None if it has expired or is not valid for this client."""
        sealed = token[len(_MAGIC) :]
        try:
            content = self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], _associated_data(peer, retry_cid))
        except (InvalidTag, ValueError):
            return None
        return content[_TIME.size :] if now - _TIME.unpack_from(content)[0] <= _LIFETIME_SECONDS else None


def _associated_data(peer: str, retry_cid: bytes) -> bytes:
    return peer.encode() + b"\0" + retry_cid
