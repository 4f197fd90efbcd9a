"""Certificate compression (RFC 8879): zlib, and brotli where it is installed. Decompression is bounded."""

import importlib
import zlib
from typing import Any

from handshaked.errors import Alert, PeerError
from handshaked.model import MAX_HANDSHAKE_MESSAGE
from handshaked.tls.codec import decode_error
from handshaked.tls.codepoints import CertificateCompression


def _load_brotli() -> Any:  # a module without types, which may not be there
    try:
        module = importlib.import_module("brotli")
    except ImportError:
        return None
    try:
        # Only versions that bound their output will do.
        module.Decompressor().process(b"", output_buffer_limit=1)
    except (TypeError, AttributeError, ValueError):
        return None
    return module


_BROTLI = _load_brotli()

AVAILABLE: tuple[CertificateCompression, ...] = (
    (CertificateCompression.ZLIB,) if _BROTLI is None else (CertificateCompression.BROTLI, CertificateCompression.ZLIB)
)
"""The algorithms that both compress and decompress here, best first."""


def compress(algorithm: CertificateCompression, body: bytes) -> bytes:
    """`body` compressed as small as it gets: it is done once for a credential."""
    if algorithm is CertificateCompression.BROTLI:
        compressed: bytes = _BROTLI.compress(body)
        return compressed
    return zlib.compress(body, 9)


def decompress(algorithm: int, length: int, compressed: bytes) -> bytes:
    """The `length` bytes that `compressed` stands for; never more are made of it."""
    if length > MAX_HANDSHAKE_MESSAGE:
        raise PeerError(Alert.BAD_CERTIFICATE, f"certificate of {length} bytes once decompressed")
    # RFC 8879 section 4: an algorithm that was not offered is an illegal_parameter, which the caller has checked;
    # what does not decompress to just that length, a bad_certificate.
    body = _unbrotli(compressed, length) if algorithm == CertificateCompression.BROTLI else _inflate(compressed, length)
    if body is None or len(body) != length:
        raise PeerError(Alert.BAD_CERTIFICATE, "the compressed certificate is not what it claims to be")
    if not body:
        raise decode_error("Certificate")
    return body


def _inflate(compressed: bytes, length: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(compressed, length + 1)
    except zlib.error:
        return None
    return body if stream.eof and not stream.unused_data else None


def _unbrotli(compressed: bytes, length: int) -> bytes | None:
    stream = _BROTLI.Decompressor()
    body = b""
    try:
        body = stream.process(compressed, output_buffer_limit=length + 1)
        while not stream.is_finished() and len(body) <= length and not stream.can_accept_more_data():
            body += stream.process(b"", output_buffer_limit=length + 1)
    except _BROTLI.error:
        return None
    return body if stream.is_finished() else None
