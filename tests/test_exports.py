"""The public names of the client library, and that the documentation covers them."""

import re
from pathlib import Path

import handshaked.shim
import handshaked.shim.aioquic


def test_shim_exports_exactly_these_names() -> None:
    assert set(handshaked.shim.__all__) == {
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
    }
    assert all(hasattr(handshaked.shim, name) for name in handshaked.shim.__all__)


def test_aioquic_adapter_exports_exactly_these_names() -> None:
    assert set(handshaked.shim.aioquic.__all__) == {"DemuxServer", "connect", "listen", "outcome_of", "serve"}
    assert all(hasattr(handshaked.shim.aioquic, name) for name in handshaked.shim.aioquic.__all__)


REFERENCE = Path(__file__).parents[1] / "docs/reference"


def test_every_public_python_name_is_documented() -> None:
    page = (REFERENCE / "python-api.md").read_text()
    for name in (*handshaked.shim.__all__, *handshaked.shim.aioquic.__all__):
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", page), name


def test_every_c_function_is_documented() -> None:
    page = (REFERENCE / "c-api.md").read_text()
    header = (REFERENCE.parents[1] / "netlink/handshaked.h").read_text()
    functions = set(re.findall(r"^(?:int|void) (\w+)\(", header, flags=re.MULTILINE))
    assert {"quic_client_handshake", "handshaked_relay_start"} <= functions
    for name in functions:
        assert f"`{name}`" in page, name
