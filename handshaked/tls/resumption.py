"""What a client keeps to resume with: opaque to whoever stores it."""

import struct
from dataclasses import dataclass, field

from cryptography import x509

from handshaked.model import CipherSuite
from handshaked.tls.x509.parsing import well_formed

MAX_TICKET = 32 * 1024
"""The longest ticket, in bytes, that is kept: a ClientHello has 64 KiB for all of its extensions."""

_FORMAT = 1
_FIXED = struct.Struct(">BHBQQQII")
_MAX_TIME = 2**63
_LENGTHS = struct.Struct(">BBBH")


@dataclass(slots=True)
class ResumptionState:
    """A session ticket as a client sees it; times in milliseconds.

    ``verified``: the server's certificate was, in the first handshake. ``trusted_until`` is when that certificate
    expires: to resume again and again does not prolong it.
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
        """RFC 8446 section 4.2.11.1."""
        return (max(0, int(now * 1000) - self.received) + self.age_add) % 2**32


def trusted_until(leaf: x509.Certificate | None, before: ResumptionState | None) -> int:
    """When what vouches for the server ends: its certificate, in this handshake or in the one that it resumes."""
    if before is not None:
        return before.trusted_until
    if leaf is None:
        return _MAX_TIME
    with well_formed():
        return max(0, int(leaf.not_valid_after_utc.timestamp() * 1000))


def push_resumption(state: ResumptionState) -> bytes:
    """`state` as bytes."""
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
    """The state that `data` is; None for what is not one, such as bytes of another release."""
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
