"""The names that others may rely on."""

import handshaked.shim
import handshaked.shim.aioquic


def public(module: object) -> set[str]:
    """What `module` itself defines for others."""
    names = vars(module)
    return {
        name
        for name, value in names.items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(str(names["__name__"]))
    }


def test_the_shim_exports_its_clients() -> None:
    assert set(handshaked.shim.__all__) == {
        "BlockingClient",
        "HandshakeClient",
        "HandshakeRefusedError",
        "PendingHandshake",
        "quic_client_handshake",
        "quic_client_handshake_async",
        "quic_server_handshake",
        "quic_server_handshake_async",
    }
    assert all(hasattr(handshaked.shim, name) for name in handshaked.shim.__all__)


def test_the_aioquic_adapter_has_these_names() -> None:
    assert public(handshaked.shim.aioquic) == {
        "Options",
        "connect",
        "create_adapted",
        "outcome_of",
        "serve",
        "server_configuration",
    }
