"""A minimal NFS client for handshakes: AUTH_TLS, STARTTLS, TLS, and a NULL call over it (RFC 9289)."""

import socket
import ssl
import struct
from pathlib import Path

ADDRESS = ("127.0.0.1", 2049)
_AUTH_NONE, _AUTH_TLS = 0, 7


def context(root: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts `root`."""
    tls = ssl.create_default_context(cafile=str(root))
    tls.set_alpn_protocols(["sunrpc"])
    return tls


def call(sock: socket.socket, flavor: int = _AUTH_NONE) -> bytes:
    """Send a NULL call of NFS version 4. Return the reply."""
    body = struct.pack(">6I4I", 1, 0, 2, 100003, 4, 0, flavor, 0, 0, 0)
    sock.sendall(struct.pack(">I", 0x80000000 | len(body)) + body)
    reply = b""
    while len(reply) < 4 or len(reply) < 4 + (int.from_bytes(reply[:4]) & 0x7FFFFFFF):
        chunk = sock.recv(4096)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        reply += chunk
    return reply


def start_tls() -> socket.socket:
    """Open a connection on which the server now expects a ClientHello."""
    sock = socket.create_connection(ADDRESS, timeout=30)
    assert b"STARTTLS" in call(sock, _AUTH_TLS)
    return sock


def handshake(tls: ssl.SSLContext, name: str = "server.test") -> ssl.SSLSocket:
    """Complete a handshake and a NULL call over TLS. Return the socket."""
    sock = tls.wrap_socket(start_tls(), server_hostname=name)
    assert b"\0" in call(sock)
    return sock
