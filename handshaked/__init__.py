"""A TLS 1.3 handshake daemon that keeps private keys out of applications."""

__version__ = "0.1.0"
