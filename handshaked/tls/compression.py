"""Certificate compression (RFC 8879): zlib, and brotli if it is installed. Decompression is bounded."""

import importlib
import zlib
from typing import Any

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_HANDSHAKE_MESSAGE
from handshaked.tls.codec import decode_error
from handshaked.tls.codepoints import CertificateCompression


def _load_brotli() -> Any:  # an optional module without types
    try:
        module = importlib.import_module("brotli")
    except ImportError:
        return None
    try:
        # Only versions that can bound their output are used.
        module.Decompressor().process(b"", output_buffer_limit=1)
    except (TypeError, AttributeError, ValueError):
        return None
    return module


_BROTLI = _load_brotli()

AVAILABLE: tuple[CertificateCompression, ...] = (
    (CertificateCompression.ZLIB,) if _BROTLI is None else (CertificateCompression.BROTLI, CertificateCompression.ZLIB)
)
"""The available algorithms, best first."""


def compress(algorithm: CertificateCompression, body: bytes) -> bytes:
    """Return `body`, compressed as much as possible: this happens once per credential."""
    if algorithm is CertificateCompression.BROTLI:
        compressed: bytes = _BROTLI.compress(body)
        return compressed
    return zlib.compress(body, 9)


def decompress(algorithm: int, length: int, compressed: bytes) -> bytes:
    """Return the `length` bytes that `compressed` decompresses to. PeerError if it is malformed or not that long.

    Memory is bounded by `length`.
    """
    if length > MAX_HANDSHAKE_MESSAGE:
        raise PeerError(Alert.BAD_CERTIFICATE, f"certificate of {length} bytes once decompressed")
    # RFC 8879 section 4: bad_certificate if it does not decompress to that length. The caller has checked that the
    # algorithm was offered.
    body = (
        _decompress_brotli(compressed, length)
        if algorithm == CertificateCompression.BROTLI
        else _decompress_zlib(compressed, length)
    )
    if body is None or len(body) != length:
        raise PeerError(Alert.BAD_CERTIFICATE, "malformed compressed certificate")
    if not body:
        raise decode_error("Certificate")
    return body


def _decompress_zlib(compressed: bytes, length: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(compressed, length + 1)
    except zlib.error:
        return None
    return body if stream.eof and not stream.unused_data else None


def _decompress_brotli(compressed: bytes, length: int) -> bytes | None:
    stream = _BROTLI.Decompressor()
    body = b""
    try:
        body = stream.process(compressed, output_buffer_limit=length + 1)
        while not stream.is_finished() and len(body) <= length and not stream.can_accept_more_data():
            body += stream.process(b"", output_buffer_limit=length + 1)
    except _BROTLI.error:
        return None
    return body if stream.is_finished() else None
