"""The public names of the client library."""

import handshaked.shim
import handshaked.shim.aioquic


def test_shim_exports_exactly_these_names() -> None:
    assert set(handshaked.shim.__all__) == {
        "Alert",
        "AuthMode",
        "BlockingClient",
        "CipherSuite",
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
    }
    assert all(hasattr(handshaked.shim, name) for name in handshaked.shim.__all__)


def test_aioquic_adapter_exports_exactly_these_names() -> None:
    assert set(handshaked.shim.aioquic.__all__) == {"DemuxServer", "connect", "listen", "outcome_of", "serve"}
    assert all(hasattr(handshaked.shim.aioquic, name) for name in handshaked.shim.aioquic.__all__)
