"""Client library of the daemon: handshakes for userspace QUIC stacks, on QUIC sockets, and on a shared UDP port.

``handshaked.shim.aioquic`` adapts aioquic; it is a separate import because it loads aioquic.
"""

from handshaked.errors import Alert, FramingError, HandshakedError, QuicError, Status
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Direction, Level, Outcome, Role
from handshaked.shim.blocking import BlockingClient
from handshaked.shim.client import HandshakeClient, OnMessage, PendingHandshake
from handshaked.shim.exchange import Message
from handshaked.shim.listening import DemuxClient
from handshaked.shim.quic import (
    HandshakeRefusedError,
    QuicSocketOptions,
    quic_client_handshake,
    quic_client_handshake_async,
    quic_server_handshake,
    quic_server_handshake_async,
)
from handshaked.wire.demux import Datagram, Flow
from handshaked.wire.messages import Close, Done, Lookup, LookupAnswer, Start

__all__ = [
    "Alert",
    "AuthMode",
    "BlockingClient",
    "CipherSuite",
    "Close",
    "CryptoData",
    "Datagram",
    "DemuxClient",
    "Direction",
    "Done",
    "Flow",
    "FramingError",
    "HandshakeClient",
    "HandshakeRefusedError",
    "HandshakedError",
    "Level",
    "Lookup",
    "LookupAnswer",
    "Message",
    "OnMessage",
    "Outcome",
    "PeerTransportParameters",
    "PendingHandshake",
    "QuicError",
    "QuicSocketOptions",
    "Role",
    "SessionTicket",
    "Start",
    "Status",
    "TrafficSecret",
    "quic_client_handshake",
    "quic_client_handshake_async",
    "quic_server_handshake",
    "quic_server_handshake_async",
]
