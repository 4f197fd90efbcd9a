"""Stateless session tickets, which contain the sealed state of the session (RFC 8446 section 4.6.1)."""

import bisect
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from handshaked.model import CipherSuite

MAX_TICKET_LIFETIME = 7 * 24 * 3600
"""Seconds; "Servers MUST NOT use any value greater than 604800 seconds (7 days)"."""

MAX_TICKET_CHAIN = 16 * 1024
"""Longest client certificate chain in a ticket, in bytes. Sessions with a longer one get no tickets."""

_KEY_ID = 16
_NONCE = 12
_TAG = 16
_FIXED = struct.Struct(">BHQIIIBH")
_FORMAT = 1
_LENGTH = struct.Struct(">H")


class TicketKey:
    """A key that seals tickets, with its identifier. The repr omits secrets; `created` is in Unix seconds."""

    __slots__ = ("_aead", "created", "identifier")

    def __init__(self, secret: bytes, created: float) -> None:
        self.created = created
        self.identifier = hmac.digest(secret, b"handshaked ticket key identifier", "sha256")[:_KEY_ID]
        self._aead = AESGCM(hmac.digest(secret, b"handshaked ticket sealing key", "sha256"))

    def seal(self, content: bytes, binding: bytes) -> bytes:
        """Return a ticket that opens with the same `binding` only."""
        nonce = os.urandom(_NONCE)
        return self.identifier + nonce + self._aead.encrypt(nonce, content, self.identifier + binding)

    def open(self, ticket: bytes, binding: bytes) -> bytes | None:
        """Return the content of a `ticket` sealed with this key and `binding`, or None."""
        try:
            return self._aead.decrypt(
                ticket[_KEY_ID : _KEY_ID + _NONCE], ticket[_KEY_ID + _NONCE :], ticket[:_KEY_ID] + binding
            )
        except InvalidTag:
            return None


class TicketKeys(Protocol):
    """Provides ticket keys: the same ones in all workers, and after a restart."""

    def sealing(self, now: float) -> TicketKey | None:
        """Return the key to seal new tickets with; None: issue none."""
        ...

    def opening(self, identifier: bytes, now: float) -> TicketKey | None:
        """Return the key with that identifier, or None if its tickets may not be opened any more."""
        ...


class RotatingTicketKeys:
    """Ticket keys derived from secrets, each in use from its time on.

    The workers store and share pairs of a time (Unix seconds) and 32 random bytes. A new pair is due every `rotation`
    seconds, dated slightly ahead so that all workers have it in time. Pairs older than ``rotation + 7 days`` are not
    used any more and can be deleted. ValueError if a secret is too short.
    """

    def __init__(self, secrets: Iterable[tuple[float, bytes]], rotation: float = 24 * 3600) -> None:
        pairs = sorted(secrets, key=lambda pair: pair[0])
        if any(len(secret) < 32 for _, secret in pairs):
            raise ValueError("a ticket key needs 32 bytes")
        self._keys = [TicketKey(secret, created) for created, secret in pairs]
        self._times = [key.created for key in self._keys]
        self._by_identifier = {key.identifier: key for key in self._keys}
        self._opens_for = rotation + MAX_TICKET_LIFETIME

    def sealing(self, now: float) -> TicketKey | None:
        """Return the newest key that is not dated ahead."""
        index = bisect.bisect_right(self._times, now)
        if not index or now - self._times[index - 1] > self._opens_for:
            return None
        return self._keys[index - 1]

    def opening(self, identifier: bytes, now: float) -> TicketKey | None:
        """Return the key unless it is too old. It may be dated ahead, as clocks differ."""
        key = self._by_identifier.get(identifier)
        return key if key is not None and now - key.created <= self._opens_for else None


@dataclass(slots=True)
class TicketContent:
    """Content of a ticket. `issued` is in milliseconds, `lifetime` in seconds; `max_early_data` 0: no early data."""

    suite: CipherSuite
    psk: bytes = field(repr=False)
    issued: int
    lifetime: int
    age_add: int
    max_early_data: int = 0
    early_context: bytes = b""
    chain: tuple[bytes, ...] = ()


def push_ticket(content: TicketContent, key: TicketKey, binding: bytes) -> bytes:
    """Return the sealed ticket. `content.early_context` is a digest or empty."""
    parts = [
        _FIXED.pack(
            _FORMAT,
            content.suite,
            content.issued,
            content.lifetime,
            content.age_add,
            content.max_early_data,
            len(content.psk),
            len(content.early_context),
        ),
        content.psk,
        content.early_context,
    ]
    for der in content.chain:
        parts += (_LENGTH.pack(len(der)), der)
    return key.seal(b"".join(parts), binding)


def pull_ticket(ticket: bytes, keys: TicketKeys, binding: bytes, now: float) -> TicketContent | None:
    """Return the content of a ticket; None if it is foreign, forged, of another binding, or expired."""
    if len(ticket) < _KEY_ID + _NONCE + _TAG + _FIXED.size:
        return None
    key = keys.opening(ticket[:_KEY_ID], now)
    if key is None:
        return None
    sealed = key.open(ticket, binding)
    # Authentic content was made by push_ticket, but possibly by another release.
    if sealed is None or sealed[0] != _FORMAT:
        return None
    _, suite, issued, lifetime, age_add, early, psk_size, context_size = _FIXED.unpack_from(sealed)
    if not -60_000 <= now * 1000 - issued <= lifetime * 1000:
        return None
    at = _FIXED.size + psk_size
    content = TicketContent(CipherSuite(suite), sealed[_FIXED.size : at], issued, lifetime, age_add, early)
    content.early_context = sealed[at : at + context_size]
    at += context_size
    chain = []
    while at < len(sealed):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(sealed, at)[0]
        chain.append(sealed[start:at])
    content.chain = tuple(chain)
    return content


def ticket_digest(ticket: bytes) -> bytes:
    """Return the digest of a ticket for a replay guard, 16 bytes."""
    return hashlib.sha256(ticket).digest()[:16]
