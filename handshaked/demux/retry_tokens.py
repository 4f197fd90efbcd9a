"""Retry tokens: stateless proof of a client's address, carrying its original connection ID (RFC 9000 section 8.1)."""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from handshaked.wire.addresses import Address
from handshaked.wire.demux import RETRY_TOKEN

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
        return RETRY_TOKEN + nonce + self._aead.encrypt(nonce, _TIME.pack(now) + original_cid, associated)

    @staticmethod
    def is_ours(token: bytes) -> bool:
        """Return whether `token` looks like one of a demultiplexer's Retry, of this process or of another one."""
        return token.startswith(RETRY_TOKEN)

    def open(self, token: bytes, peer: str, retry_cid: bytes, now: float) -> bytes | None:
        """Return the original connection ID in `token`; None if it has expired or is not valid for this client."""
        sealed = token[len(RETRY_TOKEN) :]
        try:
            content = self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], _associated_data(peer, retry_cid))
        except (InvalidTag, ValueError):
            return None
        return content[_TIME.size :] if now - _TIME.unpack_from(content)[0] <= _LIFETIME_SECONDS else None


class RetriedClients:
    """The clients that were sent a Retry while their tokens are valid, as keyed hashes.

    A client that was sent a Retry must get one again for each repetition of its first Initial, even when the port is
    no longer busy. If the repetition were delivered, its server would not know about the first Retry, and the client
    would reject the server's transport parameters (RFC 9000 section 7.3). Of too many clients, the last are kept.
    """

    def __init__(self, limit: int = 65536) -> None:
        self._limit = limit
        self._recent: set[int] = set()
        self._older: set[int] = set()
        self._since = 0.0

    def add(self, peer: Address, original_cid: bytes, now: float) -> None:
        """Note a Retry for the client at `peer`, whose Initial was sent to `original_cid`."""
        self._age(now)
        if len(self._recent) >= self._limit:
            self._recent, self._older, self._since = set(), self._recent, now
        self._recent.add(hash((peer, original_cid)))

    def has(self, peer: Address, original_cid: bytes, now: float) -> bool:
        """Return whether this client was sent a Retry recently."""
        self._age(now)
        key = hash((peer, original_cid))
        return key in self._recent or key in self._older

    def _age(self, now: float) -> None:
        if now - self._since >= _LIFETIME_SECONDS:
            self._older = self._recent if now - self._since < 2 * _LIFETIME_SECONDS else set()
            self._recent, self._since = set(), now


def _associated_data(peer: str, retry_cid: bytes) -> bytes:
    return peer.encode() + b"\0" + retry_cid
