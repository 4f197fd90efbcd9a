"""What endpoints import: clients of the daemon's Unix door, handshakes on QUIC sockets, adapters of QUIC stacks."""

from handshaked.shim.client import BlockingClient, HandshakeClient, PendingHandshake
from handshaked.shim.quic import (
    HandshakeRefusedError,
    quic_client_handshake,
    quic_client_handshake_async,
    quic_server_handshake,
    quic_server_handshake_async,
)

__all__ = [
    "BlockingClient",
    "HandshakeClient",
    "HandshakeRefusedError",
    "PendingHandshake",
    "quic_client_handshake",
    "quic_client_handshake_async",
    "quic_server_handshake",
    "quic_server_handshake_async",
]
