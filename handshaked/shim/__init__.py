"""What endpoints import: clients of the daemon's Unix door, and adapters of QUIC stacks on top of them."""

from handshaked.shim.client import BlockingClient, HandshakeClient, PendingHandshake

__all__ = ["BlockingClient", "HandshakeClient", "PendingHandshake"]
