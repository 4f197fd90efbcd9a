"""The state that a client stores to resume a session, opaque to the application."""

import struct
from dataclasses import dataclass, field

from cryptography import x509

from handshaked.model import CipherSuite
from handshaked.tls.x509.parsing import well_formed

MAX_TICKET = 32 * 1024
"""Longest ticket that is kept, in bytes: a ClientHello has 64 KiB for all of its extensions."""

_FORMAT = 1
_FIXED = struct.Struct(">BHBQQQII")
_MAX_TIME = 2**63
_LENGTHS = struct.Struct(">BBBH")


@dataclass(slots=True)
class ResumptionState:
    """The client's state of a session ticket; times are in milliseconds.

    ``verified``: the server's certificate was verified in the first handshake. ``trusted_until`` is its expiry, which
    resumption does not extend.
    """

    suite: CipherSuite
    verified: bool
    received: int
    expires: int
    trusted_until: int
    age_add: int
    max_early_data: int
    psk: bytes = field(repr=False)
    server_name: bytes
    alpn: bytes
    ticket: bytes

    def obfuscated_age(self, now: float) -> int:
        """Return obfuscated_ticket_age (RFC 8446 section 4.2.11.1) at `now` (Unix seconds)."""
        return (max(0, int(now * 1000) - self.received) + self.age_add) % 2**32


def trusted_until(leaf: x509.Certificate | None, resumed: ResumptionState | None) -> int:
    """Return the expiry of the server's certificate: of this handshake, or of the one that it resumes."""
    if resumed is not None:
        return resumed.trusted_until
    if leaf is None:
        return _MAX_TIME
    with well_formed():
        return max(0, int(leaf.not_valid_after_utc.timestamp() * 1000))


def push_resumption(state: ResumptionState) -> bytes:
    """Encode `state`."""
    return b"".join(
        (
            _FIXED.pack(
                _FORMAT,
                state.suite,
                state.verified,
                state.received,
                state.expires,
                state.trusted_until,
                state.age_add,
                state.max_early_data,
            ),
            _LENGTHS.pack(len(state.psk), len(state.server_name), len(state.alpn), len(state.ticket)),
            state.psk,
            state.server_name,
            state.alpn,
            state.ticket,
        )
    )


def pull_resumption(data: bytes) -> ResumptionState | None:
    """Decode a state; None if `data` is invalid, or of another release."""
    at = _FIXED.size + _LENGTHS.size
    if len(data) < at or data[0] != _FORMAT:
        return None
    _, suite, verified, received, expires, trusted, age_add, early = _FIXED.unpack_from(data)
    lengths = _LENGTHS.unpack_from(data, _FIXED.size)
    if suite not in list(CipherSuite) or at + sum(lengths) != len(data) or not 0 < lengths[-1] <= MAX_TICKET:
        return None
    parts = []
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return ResumptionState(CipherSuite(suite), bool(verified), received, expires, trusted, age_add, early, *parts)
