"""The calls of the agent on a QUIC socket, compared with traces of other agents."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, Status
from handshaked.model import CipherSuite, Outcome
from handshaked.shim import HandshakeRefusedError, QuicSocketOptions, quic_client_handshake, quic_server_handshake
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import Connection, FakeQuicEndpoint
from tests.conftest import Issue
from tests.datapath.traces import (
    TRACES,
    Calls,
    of_client,
    of_library_client,
    of_library_server,
    of_ours,
    of_server,
    own_parameters_before_secrets,
    tickets_looked_for_once,
    without_early_data,
    without_empty_reads,
)
from tests.demux.lossy_link import Impairment, link
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    ask,
    closed_in_handshake,
    in_thread,
    socket_daemon,
)

NAME = "quic.example.com"


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


class Shaken:
    """A handshake of two sockets through the daemon: the calls on each, the outcomes, and the client's ticket."""

    def __init__(
        self,
        client: QuicSocketOptions,
        server: QuicSocketOptions,
        *,
        client_config: Config | None = None,
        server_config: Config | None = None,
        client_alpns: tuple[str, ...] = ("h3",),
        ticket: bytes = b"",
        sealing_key: bytes = b"",
        name: str = NAME,
        impairment: Impairment | None = None,
    ) -> None:
        with (
            FakeQuicEndpoint(config=server_config, session_ticket=sealing_key) as serving,
            FakeQuicEndpoint(config=client_config, session_ticket=ticket, alpns=client_alpns) as asking,
        ):
            port = serving.listen()
            over: Future[None] = Future()
            echoing = in_thread(lambda: asking.run(exchange(asking, port, impairment, over)))
            ours = asking.next_connection()
            first = in_thread(lambda: ended(lambda: quic_client_handshake(ours.agent, name, options=client), ours))
            theirs = serving.next_connection()
            self.server_outcome = ended(lambda: quic_server_handshake(theirs.agent, options=server), theirs)
            self.client_outcome = first.result(PATIENCE)
            over.set_result(None)
            self.echo = echoing.result(PATIENCE)[0]
            for sock in (ours.socket, theirs.socket):
                assert {call for call, _ in sock.refused} <= {"receive"}
            self.calls = {"client": ours.socket.calls, "server": theirs.socket.calls}
            self.ticket = ours.socket.session_ticket


async def exchange(
    asking: FakeQuicEndpoint, port: int, impairment: Impairment | None, over: Future[None]
) -> tuple[bytes, int | None]:
    if impairment is None:
        return await asking.exchange(port, b"hello", until=over)
    async with link(port, impairment) as path:
        seen = await asking.exchange(path.port, b"hello", until=over)
        assert path.lost
        return seen


def ended(handshake: Callable[[], Outcome], connection: Connection) -> Outcome:
    """Return the outcome of `handshake`, after which the agent's socket is closed."""
    with connection.agent:
        try:
            return handshake()
        except HandshakeRefusedError as error:
            return error.outcome


def well(shaken: Shaken) -> bool:
    return (shaken.client_outcome.status, shaken.server_outcome.status, shaken.echo) == (0, 0, b"hello")


@pytest.fixture
def options(quic_daemon: RunningDaemon, authority: Authority) -> Callable[..., QuicSocketOptions]:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    return lambda **more: QuicSocketOptions(path=quic_daemon.handshake_socket, trust_anchors=(anchor,), **more)


NO_TICKET = {"x509", "alpn", "psk", "loss", "long chain", "long chain alone"}
"""A library's server without a key for tickets, or with PSKs, issues none."""


def check(shaken: Shaken, trace: str, library: str = "") -> None:
    """The calls of both sockets are those of the agent's `trace`, and of the library's."""
    assert well(shaken), (shaken.client_outcome, shaken.server_outcome)
    client, server = of_ours(shaken.calls["client"]), of_ours(shaken.calls["server"])
    if f"agent client {trace}" in TRACES:
        assert client == of_client(trace)
    if f"agent server {trace}" in TRACES:
        assert server == of_server(trace)
    if library:
        if f"library client {library}" in TRACES:
            assert client == of_library_client(library)
        tickets = [call for call in server if call.endswith("NEW_SESSION_TICKET") and library in NO_TICKET]
        assert [call for call in server if call not in tickets] == of_library_server(library)


@pytest.mark.parametrize("library", ["x509", "alpn", "ticket"])
def test_certificate_handshake_matches_the_trace(options: Callable[..., QuicSocketOptions], library: str) -> None:
    check(Shaken(options(), options()), "x509", library)


def test_cipher_set_in_the_socket_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    config = Config(payload_cipher_type=52)
    shaken = Shaken(options(), options(), client_config=config, server_config=config)
    assert shaken.client_outcome.cipher_suite is CipherSuite.AES_256_GCM_SHA384
    check(shaken, "aes256")


def test_several_alpns_match_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    check(Shaken(options(), options(), client_alpns=("smbd", "h3", "sample")), "multi-alpn")


def test_quic_version_2_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    config = Config(version=QuicProtocolVersion.VERSION_2)
    check(Shaken(options(), options(), client_config=config, server_config=config), "v2")


def test_packet_loss_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    shaken = Shaken(options(), options(), impairment=Impairment(loss=0.15, duplication=0.1, reordering=0.2))
    check(shaken, "loss", "loss")


def test_long_chain_matches_the_trace(options: Callable[..., QuicSocketOptions], authority: Authority) -> None:
    names = [f"{os.urandom(30).hex()}.example.com" for _ in range(60)]  # random names do not compress
    issued = authority.issue(NAME, *names, file_name="long")
    server = options(certificate=issued.certificate, key=issued.key)
    shaken = Shaken(options(), server)
    assert shaken.calls["client"].count("receive HANDSHAKE ...") >= 2
    assert well(shaken)
    assert of_ours(shaken.calls["client"]) == of_client("long chain") == of_library_client("long chain alone")
    assert of_ours(shaken.calls["server"]) == of_library_server("long chain") == of_library_server("long chain alone")
    # Their server was killed by such a chain in the middle of its flight.
    killed = without_empty_reads(TRACES["agent server killed by a long chain"])
    assert killed[-1] == "send HANDSHAKE ENCRYPTED_EXTENSIONS more"
    assert own_parameters_before_secrets(killed) == of_ours(shaken.calls["server"])[: len(killed)]
    assert TRACES["library client of a killed server"][-1] == "send INITIAL CLIENT_HELLO"


# Refusals.


def test_server_of_another_name_matches_the_trace(options: Callable[..., QuicSocketOptions], issue: Issue) -> None:
    issued = issue(NAME)
    server = options(certificate=issued.certificate, key=issued.key)
    shaken = Shaken(options(), server, name="other.example.com")
    assert shaken.client_outcome.alert is Alert.BAD_CERTIFICATE
    assert shaken.server_outcome.status == Status.REFUSED
    assert shaken.server_outcome.reason == "the peer sent the alert bad_certificate"
    *theirs, last = of_client("other name")
    assert last == "receive HANDSHAKE CERTIFICATE_VERIFY"  # the certificate alone is reason enough
    assert of_ours(shaken.calls["client"]) == [*theirs, "set CONNECTION_CLOSE"]
    assert of_ours(shaken.calls["server"]) == [*of_library_server("other name"), "get CONNECTION_CLOSE"]


def test_unknown_protocol_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    shaken = Shaken(options(), options(), client_alpns=("another",))
    assert shaken.server_outcome.alert is Alert.NO_APPLICATION_PROTOCOL
    server, theirs = of_ours(shaken.calls["server"]), without_empty_reads(TRACES["agent server other alpn"])
    asked = theirs.index("receive INITIAL CLIENT_HELLO") + 1
    assert server == [*theirs[:asked], "set CONNECTION_CLOSE"]
    assert shaken.client_outcome.reason == "the peer sent the alert no_application_protocol"
    *client, last = of_ours(shaken.calls["client"])
    assert last == "get CONNECTION_CLOSE"
    assert client == of_library_client("other alpn")[: len(client)]
    assert client[-1] == "send INITIAL CLIENT_HELLO"


def unanswered(options: QuicSocketOptions, **endpoint: object) -> tuple[Outcome, Calls]:
    """Run a client whose server does not exist."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
        FakeQuicEndpoint(**endpoint) as asking,  # type: ignore[arg-type] # by name
    ):
        silent.bind(("127.0.0.1", 0))
        in_thread(lambda: asking.run(asking.exchange(silent.getsockname()[1], b"hello")))
        connection = asking.next_connection()
        outcome = ended(lambda: quic_client_handshake(connection.agent, NAME, options=options), connection)
        return outcome, connection.socket.calls


def test_missing_server_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    outcome, calls = unanswered(options(timeout=0.3))
    assert outcome.status == Status.TIMED_OUT
    assert of_ours(calls) == without_empty_reads(TRACES["agent client no server"])


def test_server_without_alpn_is_refused(options: Callable[..., QuicSocketOptions]) -> None:
    outcome, calls = unanswered(options(), alpns=())
    assert outcome.status == Status.INVALID
    ours, theirs = of_ours(calls), TRACES["agent client no-alpn"]
    assert ours == [*theirs[: theirs.index("send INITIAL CLIENT_HELLO")], "set CONNECTION_CLOSE"]


def test_client_without_alpn_is_refused(options: Callable[..., QuicSocketOptions]) -> None:
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        asking = in_thread(lambda: asyncio.run(ask(port, name=NAME, alpn=None)))
        connection = endpoint.next_connection()
        outcome = ended(lambda: quic_server_handshake(connection.agent, options=options()), connection)
        assert asking.result(PATIENCE).close == closed_in_handshake(Alert.NO_APPLICATION_PROTOCOL)
    assert outcome.alert is Alert.NO_APPLICATION_PROTOCOL
    theirs = without_empty_reads(TRACES["agent server no-alpn"])
    asked = theirs.index("receive INITIAL CLIENT_HELLO") + 1
    assert of_ours(connection.socket.calls) == [*theirs[:asked], "set CONNECTION_CLOSE"]


def test_unreadable_psk_matches_the_trace(options: Callable[..., QuicSocketOptions], tmp_path: Path) -> None:
    (tmp_path / "psk").write_text("nonsense")
    outcome, calls = unanswered(options(psk=tmp_path / "psk"))
    assert outcome.status == Status.NO_KEY
    assert calls == []  # where others have asked for the state, or the role
    assert set(TRACES["agent client unreadable psk"]) == {"get ALPN", "get SESSION_TICKET", "get CONFIG"}
    assert TRACES["library server unreadable psk"] == ["get TOKEN"]


def test_psk_handshake_matches_the_trace(options: Callable[..., QuicSocketOptions], tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"someone:{'5a' * 32}\n")
    check(Shaken(options(psk=psk), options(psk=psk)), "psk", "psk")


def test_client_certificate_matches_the_trace(
    options: Callable[..., QuicSocketOptions], issue: Issue, authority: Authority
) -> None:
    identity, issued = authority.issue("someone", client=True, file_name="traced"), issue(NAME)
    shaken = Shaken(
        options(certificate=identity.certificate, key=identity.key),
        options(certificate=issued.certificate, key=issued.key),
        server_config=Config(certificate_request=2),
    )
    assert shaken.server_outcome.peer_certificates == (identity.leaf.public_bytes(Encoding.DER),)
    assert of_ours(shaken.calls["client"]) == of_client("mutual")
    # Its socket has no ticket key, and without a registration there is no other.
    assert [*of_ours(shaken.calls["server"]), "send APPLICATION NEW_SESSION_TICKET"] == of_server("mutual")


def test_resumption_matches_the_trace(options: Callable[..., QuicSocketOptions]) -> None:
    first = Shaken(options(), options(), client_config=Config(ticket_seconds=5))
    calls = tickets_looked_for_once(of_ours(first.calls["client"]))
    assert calls == tickets_looked_for_once(of_client("ticket"))
    assert of_ours(first.calls["server"]) == of_server("ticket") == of_server("recvticket")
    # An even number of seconds was no time at all for that agent.
    assert calls[: len(of_client("recvticket"))] == of_client("recvticket")
    second = Shaken(options(), options(), ticket=first.ticket)
    assert second.client_outcome.resumed
    assert second.server_outcome.resumed
    assert of_ours(second.calls["client"]) == without_early_data(of_client("resumed"))
    assert of_ours(second.calls["server"]) == of_server("resumed")
    assert of_ours(second.calls["client"]) == without_early_data(of_library_client("resumed"))
    assert of_ours(second.calls["server"]) == without_early_data(of_library_server("resumed"))


def test_unprocessed_ticket_is_not_resumed(options: Callable[..., QuicSocketOptions]) -> None:
    """The session has not processed it; the agent of the trace gave up after three calls."""
    shaken = Shaken(options(), options(), ticket=b"\x04\0\0\xef" + bytes(239))
    assert not shaken.client_outcome.resumed
    check(shaken, "x509")
    assert shaken.calls["client"][:3] == TRACES["agent client raw ticket"]


def test_ticket_that_does_not_fit_the_socket_is_logged(
    quic_daemon: RunningDaemon, options: Callable[..., QuicSocketOptions], authority: Authority, issue: Issue
) -> None:
    """It contains the client's long certificate."""
    names = [f"{os.urandom(30).hex()}.example.com" for _ in range(55)]
    identity, issued = authority.issue(*names, client=True, file_name="long-client"), issue(NAME)
    shaken = Shaken(
        options(certificate=identity.certificate, key=identity.key),
        options(certificate=issued.certificate, key=issued.key),
        client_config=Config(ticket_seconds=5),
        server_config=Config(certificate_request=2),
        sealing_key=b"k" * 64,
    )
    assert well(shaken), (shaken.client_outcome, shaken.server_outcome, shaken.echo)
    assert "set SESSION_TICKET" not in shaken.calls["client"]


def test_every_trace_is_compared() -> None:
    source = Path(__file__).read_text()
    forms = {trace: f'"{trace.split(maxsplit=2)[2]}"' for trace in TRACES}
    assert [trace for trace, form in forms.items() if form not in source and f'"{trace}"' not in source] == []


def test_early_data_is_accepted_if_all_sides_allow_it(
    quic_daemon: RunningDaemon, options: Callable[..., QuicSocketOptions], issue: Issue
) -> None:
    issued = issue(NAME)
    quic_daemon.register(
        "web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME], early_data=True, replace=True
    )
    config = Config(ticket_seconds=5)
    first = Shaken(options(early_data=b""), options(early_data=b"1"), client_config=config)
    second = Shaken(options(early_data=b""), options(early_data=b"1"), ticket=first.ticket)
    assert second.client_outcome.early_data_accepted
    assert second.server_outcome.early_data_accepted
    assert of_ours(second.calls["client"]) == of_client("resumed")
    calls = of_ours(second.calls["server"])
    assert calls.index("set CRYPTO_SECRET EARLY RECEIVE") < calls.index("set CRYPTO_SECRET HANDSHAKE SEND")
    assert without_early_data(calls) == of_server("resumed")
    third = Shaken(options(early_data=b""), options(), ticket=first.ticket)
    assert third.client_outcome.resumed
    assert not third.client_outcome.early_data_accepted
