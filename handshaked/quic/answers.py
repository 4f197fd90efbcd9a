"""Stateless answers of a server: Version Negotiation, Retry, and CONNECTION_CLOSE in an Initial packet."""

import os

from handshaked.quic.packets import VERSION_2, VERSIONS, LongHeader, push_varint
from handshaked.quic.protection import InitialKeys, retry_tag

_CONNECTION_CLOSE = 0x1C
_CRYPTO_FRAME = 0x06
_MAX_REASON = 256


def push_version_negotiation(header: LongHeader) -> bytes:
    """Return a Version Negotiation packet that answers the packet with `header` (RFC 9000 section 17.2.1)."""
    grease = int.from_bytes(os.urandom(4)) & 0xF0F0F0F0 | 0x0A0A0A0A  # section 15: versions that exercise negotiation
    versions = b"".join(version.to_bytes(4) for version in (*VERSIONS, grease))
    return bytes([0xC0 | os.urandom(1)[0] & 0x3F]) + bytes(4) + _cids(header) + versions


def push_retry(header: LongHeader, source_cid: bytes, token: bytes) -> bytes:
    """Return a Retry for the Initial packet with `header`: the client retries to `source_cid` with `token`."""
    first = (0xC0 if header.version == VERSION_2 else 0xF0) | os.urandom(1)[0] & 0x0F
    answer = LongHeader(header.version, source_cid, header.source_cid)
    packet = bytes([first]) + header.version.to_bytes(4) + _cids(answer) + token
    return packet + retry_tag(header.version, header.destination_cid, packet)


def push_close(header: LongHeader, error: int, reason: str) -> bytes:
    """Return an Initial packet that closes the connection of the Initial with `header` (RFC 9000 section 10.2.3)."""
    words = reason.encode()[:_MAX_REASON]
    frame = b"".join(map(push_varint, (_CONNECTION_CLOSE, error, _CRYPTO_FRAME, len(words)))) + words
    first = 0xD3 if header.version == VERSION_2 else 0xC3  # a packet number of four bytes
    answer = LongHeader(header.version, os.urandom(8), header.source_cid)
    start = bytes([first]) + header.version.to_bytes(4) + _cids(answer) + push_varint(0)
    return InitialKeys(header.version, header.destination_cid, server=True).seal(start, 0, frame)


def _cids(header: LongHeader) -> bytes:
    """Return the connection IDs of an answer to the packet with `header`: its source is the destination."""
    destination, source = header.source_cid, header.destination_cid
    return bytes([len(destination)]) + destination + bytes([len(source)]) + source
