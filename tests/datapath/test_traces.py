"""What the agent does with a QUIC socket, call by call, against traces of other agents (docs/quic-sockets.md).

``quic-socket-calls.json`` has the calls of an agent for the kernel's consumers, and of a library, in order.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.shim import quic_client_handshake, quic_server_handshake
from handshaked.shim.quic import Options
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.quic_endpoint import KernelLikeEndpoint
from tests.conftest import Issue
from tests.quic_sockets import PATIENCE, in_thread, socket_daemon

NAME = "quic.example.com"
TRACES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "quic-socket-calls.json").read_text()
)
Calls = list[str]


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


class Shaken:
    """Two sockets and the daemon between them: the calls on each, and what the client's keeps as ticket."""

    def __init__(
        self,
        daemon: RunningDaemon,
        client: Options,
        server: Options,
        *,
        client_config: Config | None = None,
        server_config: Config | None = None,
        ticket: bytes = b"",
    ) -> None:
        with (
            KernelLikeEndpoint(config=server_config) as serving,
            KernelLikeEndpoint(config=client_config, session_ticket=ticket) as asking,
        ):
            port = serving.listen()
            echoing = in_thread(lambda: asking.run(asking.exchange(port, b"hello")))
            ours = asking.next_connection()
            first = in_thread(lambda: quic_client_handshake(ours.agent, NAME, options=client))
            theirs = serving.next_connection()
            with ours.agent, theirs.agent:
                self.server_outcome = quic_server_handshake(theirs.agent, options=server)
                self.client_outcome = first.result(PATIENCE)
            assert echoing.result(PATIENCE) == (b"hello", None)
            assert ours.socket.refused == [("receive", 11)] * len(ours.socket.refused)
            assert theirs.socket.refused == [("receive", 11)] * len(theirs.socket.refused)
            self.calls = {"client": ours.socket.calls, "server": theirs.socket.calls}
            self.ticket = ours.socket.session_ticket


@pytest.fixture
def options(quic_daemon: RunningDaemon, authority: Authority) -> Callable[..., Options]:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    return lambda **more: Options(path=quic_daemon.handshake_socket, trust_anchors=(anchor,), **more)


# The differences, as docs/quic-sockets.md lists them.


def without_empty_reads(calls: Calls) -> Calls:
    return [call for call in calls if call != "receive"]


def of_ours(calls: Calls) -> Calls:
    """Without what every one of our handshakes differs in: empty reads, and certificates compressed where both can."""
    return [call.replace("COMPRESSED_CERTIFICATE", "CERTIFICATE") for call in without_empty_reads(calls)]


def own_parameters_before_secrets(calls: Calls) -> Calls:
    moved = [call for call in calls if call != "get TRANSPORT_PARAM_EXT"]
    moved.insert(moved.index("set ALPN") + 1, "get TRANSPORT_PARAM_EXT")
    return moved


def receiving_before_sending(calls: Calls) -> Calls:
    ordered = list(calls)
    for level in ("HANDSHAKE", "APPLICATION"):
        send, receive = (f"set CRYPTO_SECRET {level} {direction}" for direction in ("SEND", "RECEIVE"))
        ordered.remove(send)
        ordered.insert(ordered.index(receive) + 1, send)
    return ordered


def without_early_data(calls: Calls) -> Calls:
    return [call for call in calls if "EARLY" not in call]


def state_instead_of_role(calls: Calls) -> Calls:
    assert calls[0] == "get TOKEN"
    return ["get ALPN", "get SESSION_TICKET", "get CONFIG", *calls[1:]]


def alpn_told(calls: Calls) -> Calls:
    told = list(calls)
    told.insert(told.index("set TRANSPORT_PARAM_EXT") + 1, "set ALPN")
    return told


def tickets_looked_for_once(calls: Calls) -> Calls:
    return [call for index, call in enumerate(calls) if not index or call != calls[index - 1]]


def of_client(trace: str) -> Calls:
    return receiving_before_sending(without_empty_reads(TRACES[f"agent client {trace}"]))


def of_server(trace: str) -> Calls:
    return own_parameters_before_secrets(without_empty_reads(TRACES[f"agent server {trace}"]))


def test_certificates(quic_daemon: RunningDaemon, options: Callable[..., Options]) -> None:
    shaken = Shaken(quic_daemon, options(), options())
    assert of_ours(shaken.calls["client"]) == of_client("x509")
    assert of_ours(shaken.calls["server"]) == of_server("x509")
    library = receiving_before_sending(state_instead_of_role(without_empty_reads(TRACES["library client x509"])))
    assert of_ours(shaken.calls["client"]) == library
    library = alpn_told(state_instead_of_role(without_empty_reads(TRACES["library server x509"])))
    assert of_ours(shaken.calls["server"]) == own_parameters_before_secrets(library)


def test_pre_shared_keys(quic_daemon: RunningDaemon, options: Callable[..., Options], tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"someone:{'5a' * 32}\n")
    shaken = Shaken(quic_daemon, options(psk=psk), options(psk=psk))
    assert of_ours(shaken.calls["client"]) == of_client("psk")
    assert of_ours(shaken.calls["server"]) == of_server("psk")


def test_client_certificates(
    quic_daemon: RunningDaemon, options: Callable[..., Options], issue: Issue, authority: Authority
) -> None:
    identity, issued = authority.issue("someone", client=True, file_name="traced"), issue(NAME)
    shaken = Shaken(
        quic_daemon,
        options(certificate=identity.certificate, key=identity.key),
        options(certificate=issued.certificate, key=issued.key),
        server_config=Config(certificate_request=2),
    )
    assert shaken.server_outcome.peer_certificates == (identity.leaf.public_bytes(Encoding.DER),)
    assert of_ours(shaken.calls["client"]) == of_client("mutual")
    # Its socket has no ticket key, and without a registration there is no other.
    assert [*of_ours(shaken.calls["server"]), "send APPLICATION NEW_SESSION_TICKET"] == of_server("mutual")


def test_tickets_and_resumption(quic_daemon: RunningDaemon, options: Callable[..., Options]) -> None:
    first = Shaken(quic_daemon, options(), options(), client_config=Config(ticket_seconds=5))
    calls = tickets_looked_for_once(of_ours(first.calls["client"]))
    assert calls == tickets_looked_for_once(of_client("ticket"))
    second = Shaken(quic_daemon, options(), options(), ticket=first.ticket)
    assert second.client_outcome.resumed
    assert second.server_outcome.resumed
    assert of_ours(second.calls["client"]) == without_early_data(of_client("resumed"))
    assert of_ours(second.calls["server"]) == of_server("resumed")


def test_early_data_where_all_consent(
    quic_daemon: RunningDaemon, options: Callable[..., Options], issue: Issue
) -> None:
    issued = issue(NAME)
    quic_daemon.register(
        "web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME], early_data=True, replace=True
    )
    config = Config(ticket_seconds=5)
    first = Shaken(quic_daemon, options(early_data=b""), options(early_data=b"1"), client_config=config)
    second = Shaken(quic_daemon, options(early_data=b""), options(early_data=b"1"), ticket=first.ticket)
    assert second.client_outcome.early_data_accepted
    assert second.server_outcome.early_data_accepted
    assert of_ours(second.calls["client"]) == of_client("resumed")
    calls = of_ours(second.calls["server"])
    assert calls.index("set CRYPTO_SECRET EARLY RECEIVE") < calls.index("set CRYPTO_SECRET HANDSHAKE SEND")
    assert without_early_data(calls) == of_server("resumed")
    third = Shaken(quic_daemon, options(early_data=b""), options(), ticket=first.ticket)
    assert third.client_outcome.resumed
    assert not third.client_outcome.early_data_accepted
