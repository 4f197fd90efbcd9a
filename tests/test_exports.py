"""The public names of the client library."""

import handshaked.shim
import handshaked.shim.aioquic


def public(module: object) -> set[str]:
    """Return the public names that `module` defines."""
    names = vars(module)
    return {
        name
        for name, value in names.items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(str(names["__name__"]))
    }


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
    assert public(handshaked.shim.aioquic) == {
        "Options",
        "connect",
        "create_adapted",
        "outcome_of",
        "serve",
        "server_configuration",
    }
