"""handshaked: TLS 1.3 handshakes for those who should not hold keys."""

__version__ = "0.1.0"
