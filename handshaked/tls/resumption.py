"""The state that a client stores to resume a session, opaque to the application."""

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography import x509

from handshaked.model import CipherSuite
from handshaked.tls.codec import push_vector8
from handshaked.tls.parameters import ClientParameters
from handshaked.tls.psk import ExternalPsk
from handshaked.tls.x509.parsing import well_formed

MAX_TICKET = 32 * 1024
"""Longest ticket that is kept, in bytes: a ClientHello has 64 KiB for all of its extensions."""

_FORMAT = 2
_FIXED = struct.Struct(">BH32sQQQII")
_MAX_TIME = 2**63
_LENGTHS = struct.Struct(">BBBH")


@dataclass(slots=True)
class ResumptionState:
    """The client's state of a session ticket; times are in milliseconds.

    ``binding`` is what the session is bound to, of `bindings`. ``trusted_until`` is the expiry of the server's
    certificate, which resumption does not extend.
    """

    suite: CipherSuite
    binding: bytes
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


@dataclass(frozen=True, slots=True)
class Bindings:
    """Values that sessions of the same client are bound to, 32 bytes each, by the way that authenticated the server.

    A session is resumed only over the same transport (TCP or QUIC), with the same client certificate, and if the client
    accepts the way in which the server was authenticated in the first handshake: None if it does not.
    """

    by_certificate: bytes | None
    by_psk: bytes | None

    def accepts(self, binding: bytes) -> bool:
        """Return whether a session with `binding` may be resumed."""
        return binding in (self.by_certificate, self.by_psk)


def bindings(parameters: ClientParameters, *, quic: bool) -> Bindings:
    """Return the bindings of sessions of a client with `parameters`."""
    leaf = b"" if parameters.credential is None else parameters.credential.chain[0]
    client = bytes([quic]) + hashlib.sha256(leaf).digest()
    verifier, psk = parameters.verifier, parameters.psk
    by_certificate = None
    if verifier is not None:
        by_certificate = _digest(client, b"trust", verifier.trust)
    elif psk is None:
        by_certificate = _digest(client, b"any certificate")
    return Bindings(by_certificate, None if psk is None else _digest(client, b"PSK", _proof(psk)))


def _proof(psk: ExternalPsk) -> bytes:
    """Return bytes that identify a key without revealing it."""
    return hmac.digest(psk.key, b"handshaked resumption of " + psk.identity, "sha256")


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(map(push_vector8, parts))).digest()


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
                state.binding,
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
    _, suite, binding, received, expires, trusted, age_add, early = _FIXED.unpack_from(data)
    lengths = _LENGTHS.unpack_from(data, _FIXED.size)
    if suite not in list(CipherSuite) or at + sum(lengths) != len(data) or not 0 < lengths[-1] <= MAX_TICKET:
        return None
    parts = []
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return ResumptionState(CipherSuite(suite), binding, received, expires, trusted, age_add, early, *parts)
