"""Session tickets: stateless for a server, which seals into them all it has to know (RFC 8446 section 4.6.1)."""

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
"""The longest client certificate chain, in bytes, that a ticket carries. Longer ones are not resumed."""

_KEY_ID = 16
_NONCE = 12
_TAG = 16
_FIXED = struct.Struct(">BHQIIIBH")
_FORMAT = 1
_LENGTH = struct.Struct(">H")


class TicketKey:
    """A key that seals tickets, and the identifier by which it is found again."""

    __slots__ = ("_aead", "created", "identifier")

    def __init__(self, secret: bytes, created: float) -> None:
        self.created = created
        self.identifier = hmac.digest(secret, b"handshaked ticket key identifier", "sha256")[:_KEY_ID]
        self._aead = AESGCM(hmac.digest(secret, b"handshaked ticket sealing key", "sha256"))

    def seal(self, content: bytes, binding: bytes) -> bytes:
        """A ticket that opens with the same `binding` only."""
        nonce = os.urandom(_NONCE)
        return self.identifier + nonce + self._aead.encrypt(nonce, content, self.identifier + binding)

    def open(self, ticket: bytes, binding: bytes) -> bytes | None:
        """What is in a `ticket` of this key, or None."""
        try:
            return self._aead.decrypt(
                ticket[_KEY_ID : _KEY_ID + _NONCE], ticket[_KEY_ID + _NONCE :], ticket[:_KEY_ID] + binding
            )
        except InvalidTag:
            return None


class TicketKeys(Protocol):
    """The keys of all workers: the same ones in each, and the same after a restart."""

    def sealing(self, now: float) -> TicketKey | None:
        """The key to seal new tickets with; None: issue none."""
        ...

    def opening(self, identifier: bytes, now: float) -> TicketKey | None:
        """The key of that identifier, if tickets of it may still be opened."""
        ...


class RotatingTicketKeys:
    """Ticket keys out of secrets with the time that each begins to be used.

    What is to be stored, and shared by the workers: pairs of a time (Unix seconds) and 32 random bytes. A new pair
    is due every `rotation` seconds, dated a little ahead, so that all workers have it before its time comes; pairs
    whose time is more than ``rotation + 7 days`` ago can be deleted, and are not used here any more.
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
        """The newest key whose time has come."""
        index = bisect.bisect_right(self._times, now)
        if not index or now - self._times[index - 1] > self._opens_for:
            return None
        return self._keys[index - 1]

    def opening(self, identifier: bytes, now: float) -> TicketKey | None:
        """A key that is not too old. One dated ahead is good: another worker's clock may be."""
        key = self._by_identifier.get(identifier)
        return key if key is not None and now - key.created <= self._opens_for else None


@dataclass(slots=True)
class TicketContent:
    """What a ticket holds. `issued` is in milliseconds, `max_early_data` 0 without consent to early data."""

    suite: CipherSuite
    psk: bytes = field(repr=False)
    issued: int
    lifetime: int
    age_add: int
    max_early_data: int = 0
    early_context: bytes = b""
    chain: tuple[bytes, ...] = ()


def push_ticket(content: TicketContent, key: TicketKey, binding: bytes) -> bytes:
    """The sealed ticket. `content.early_context` is a digest or empty."""
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
    """What a ticket of ours holds; None for one that is foreign, forged, of another binding, or too old."""
    if len(ticket) < _KEY_ID + _NONCE + _TAG + _FIXED.size:
        return None
    key = keys.opening(ticket[:_KEY_ID], now)
    if key is None:
        return None
    sealed = key.open(ticket, binding)
    # What is authentic was made by push_ticket; only its format may be one of another release.
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
    """What a replay guard knows a ticket by."""
    return hashlib.sha256(ticket).digest()[:16]
