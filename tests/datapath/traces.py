"""Traces of other agents on QUIC sockets, without the differences that docs/explanation/quic-sockets.md lists.

``quic-socket-calls.json`` has the calls of an agent for the kernel's consumers, and of a library, in order.
"""

import json
from pathlib import Path

TRACES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "quic-socket-calls.json").read_text()
)
Calls = list[str]


def without_empty_reads(calls: Calls) -> Calls:
    """Remove empty reads, and further frames of a message, whose length the peer chooses."""
    return [call for call in calls if call != "receive" and not call.endswith("...")]


def of_ours(calls: Calls) -> Calls:
    """Remove what differs in all our handshakes: empty reads, and the compression of certificates."""
    return [call.replace("COMPRESSED_CERTIFICATE", "CERTIFICATE") for call in without_empty_reads(calls)]


def own_parameters_before_secrets(calls: Calls) -> Calls:
    moved = [call for call in calls if call != "get TRANSPORT_PARAM_EXT"]
    moved.insert(moved.index("set ALPN") + 1, "get TRANSPORT_PARAM_EXT")
    return moved


def receiving_before_sending(calls: Calls) -> Calls:
    ordered = list(calls)
    for level in ("HANDSHAKE", "APPLICATION"):
        send, receive = (f"set CRYPTO_SECRET {level} {direction}" for direction in ("SEND", "RECEIVE"))
        if send not in ordered or receive not in ordered:
            continue
        ordered.remove(send)
        ordered.insert(ordered.index(receive) + 1, send)
    return ordered


def without_early_data(calls: Calls) -> Calls:
    return [call for call in calls if "EARLY" not in call]


def state_instead_of_role(calls: Calls) -> Calls:
    assert calls[0] == "get TOKEN"
    return ["get ALPN", "get SESSION_TICKET", "get CONFIG", *calls[1:]]


def with_alpn(calls: Calls) -> Calls:
    calls_with_alpn = list(calls)
    calls_with_alpn.insert(calls_with_alpn.index("set TRANSPORT_PARAM_EXT") + 1, "set ALPN")
    return calls_with_alpn


def tickets_looked_for_once(calls: Calls) -> Calls:
    return [call for index, call in enumerate(calls) if not index or call != calls[index - 1]]


def of_client(trace: str) -> Calls:
    return receiving_before_sending(without_empty_reads(TRACES[f"agent client {trace}"]))


def of_server(trace: str) -> Calls:
    return own_parameters_before_secrets(without_empty_reads(TRACES[f"agent server {trace}"]))


def of_library_client(trace: str) -> Calls:
    calls = receiving_before_sending(state_instead_of_role(without_empty_reads(TRACES[f"library client {trace}"])))
    return calls[:-1] if calls[-1] == "get SESSION_TICKET" else calls  # its application did that, later


def of_library_server(trace: str) -> Calls:
    calls = with_alpn(state_instead_of_role(without_empty_reads(TRACES[f"library server {trace}"])))
    return own_parameters_before_secrets(calls)
