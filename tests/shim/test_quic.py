"""Handshakes on stand-ins for QUIC sockets, by the Python client library, against other implementations."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, QuicError
from handshaked.model import CipherSuite, Outcome
from handshaked.shim import (
    HandshakeRefusedError,
    QuicSocketOptions,
    quic_client_handshake,
    quic_client_handshake_async,
    quic_server_handshake,
    quic_server_handshake_async,
)
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.conftest import Issue
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    StockServer,
    ask,
    ask_with_gtlsclient,
    closed_in_handshake,
    in_thread,
    socket_daemon,
)

NAME = "quic.example.com"
Seen = TypeVar("Seen")


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue, authority: Authority) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


def serve_one(daemon: RunningDaemon, endpoint: FakeQuicEndpoint, **options: object) -> Outcome:
    """Do the server's handshake on the next connection of `endpoint` and close the agent's socket."""
    connection = endpoint.next_connection()
    with connection.agent:
        return quic_server_handshake(
            connection.agent, options=QuicSocketOptions(path=daemon.handshake_socket, **options)
        )


def served(daemon: RunningDaemon, client: Callable[[int], Seen], **options: object) -> tuple[Outcome, Seen]:
    """Serve `client`, which is called with a port; return the outcome and what the client returned."""
    endpoint_options = {key: options.pop(key) for key in ("config", "session_ticket", "alpns") if key in options}
    with FakeQuicEndpoint(**endpoint_options) as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(daemon, endpoint, **options))
        answer = client(port)
        return serving.result(PATIENCE), answer


def test_server_serves_stock_aioquic(quic_daemon: RunningDaemon, authority: Authority) -> None:
    outcome, seen = served(quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root)))
    assert seen.data == b"hello"
    assert (outcome.status, outcome.alpn, outcome.registration, outcome.resumed) == (0, b"h3", "web", False)
    assert outcome.server_name == NAME


@pytest.mark.needs("gtlsclient", "mount namespaces")
def test_server_serves_gtlsclient(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    outcome, seen = served(
        quic_daemon, lambda port: ask_with_gtlsclient(port, NAME, tmp_path, "--exit-on-first-stream-close")
    )
    assert (outcome.status, outcome.registration) == (0, "web")
    assert "Negotiated ALPN is h3" in seen
    assert "QUIC handshake has completed" in seen


@pytest.mark.needs("gtlsclient", "mount namespaces")
def test_unsupported_key_share_leads_to_hello_retry_request(
    quic_daemon: RunningDaemon, issue: Issue, tmp_path: Path
) -> None:
    issued, name = issue("retry.example.com"), "retry.example.com"
    quic_daemon.register(
        "retry", (issued.certificate, issued.key), alpns=["h3"], server_names=[name], groups=["secp521r1"]
    )
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: ask_with_gtlsclient(port, name, tmp_path, "--exit-on-first-stream-close"))
        connection = endpoint.next_connection()
        with connection.agent:
            outcome = quic_server_handshake(
                connection.agent, options=QuicSocketOptions(path=quic_daemon.handshake_socket)
            )
        assert "QUIC handshake has completed" in client.result(PATIENCE)
    assert (outcome.status, outcome.registration) == (0, "retry")
    calls = connection.socket.calls
    assert calls.count("receive INITIAL CLIENT_HELLO") == 2
    assert [call for call in calls if call.startswith("send INITIAL")] == [
        "send INITIAL SERVER_HELLO",
        "send INITIAL SERVER_HELLO more",
    ]


def test_session_is_resumed_on_another_socket(quic_daemon: RunningDaemon, authority: Authority) -> None:
    _, first = served(quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root, wants_ticket=True)))
    outcome, second = served(
        quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root, ticket=first.tickets[0]))
    )
    assert outcome.resumed
    assert second.resumed
    assert second.data == b"hello"


def test_handshake_succeeds_if_client_closes_before_its_ticket(
    quic_daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket that could not be sent made the handshake fail although the client's Finished was verified."""
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        client = in_thread(lambda: asyncio.run(ask(port)))
        connection = endpoint.next_connection()
        carry_out = connection.socket.set

        def go_when_established(option: int, value: bytes) -> None:
            carry_out(option, value)
            connection.socket.closed = connection.socket.established

        monkeypatch.setattr(connection.socket, "set", go_when_established)
        with connection.agent:
            outcome = quic_server_handshake(
                connection.agent, options=QuicSocketOptions(path=quic_daemon.handshake_socket)
            )
        assert client.result(PATIENCE).data == b"hello"
    assert outcome.status == 0
    assert connection.socket.refused[-1] == ("send APPLICATION NEW_SESSION_TICKET", errno.EPIPE)


def test_rejected_client_gets_alert_and_caller_errno(quic_daemon: RunningDaemon) -> None:
    def serve(endpoint: FakeQuicEndpoint) -> HandshakeRefusedError:
        with pytest.raises(HandshakeRefusedError) as raised:
            serve_one(quic_daemon, endpoint)
        return raised.value

    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve(endpoint))
        seen = asyncio.run(ask(port, name="unknown.example.com"))
        error = serving.result(PATIENCE)
    assert seen.close == closed_in_handshake(Alert.UNRECOGNIZED_NAME)
    assert error.errno == errno.EACCES
    assert error.outcome.alert is Alert.UNRECOGNIZED_NAME


def test_server_uses_own_certificate_files(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    issued = issue("own.example.com")
    outcome, seen = served(
        quic_daemon,
        lambda port: asyncio.run(ask(port, root=authority.root, name="own.example.com", wants_ticket=True)),
        certificate=issued.certificate,
        key=issued.key,
        session_ticket=b"k" * 64,
    )
    assert seen.data == b"hello"
    assert (outcome.alpn, outcome.registration) == (b"h3", None)
    outcome, again = served(
        quic_daemon,
        lambda port: asyncio.run(ask(port, root=authority.root, name="own.example.com", ticket=seen.tickets[0])),
        certificate=issued.certificate,
        key=issued.key,
        session_ticket=b"k" * 64,
    )
    assert outcome.resumed
    assert again.resumed


def test_required_client_certificate_is_reported(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
    identity = authority.issue("someone", client=True, file_name="someone")
    anchor = authority.certificate.public_bytes(Encoding.DER)
    issued = issue(NAME)
    brought = {"certificate": issued.certificate, "key": issued.key, "trust_anchors": (anchor,)}
    config = Config(certificate_request=2)
    outcome, seen = served(
        quic_daemon, lambda port: asyncio.run(ask(port, identity=identity)), config=config, **brought
    )
    assert seen.data == b"hello"
    assert outcome.peer_certificates == (identity.leaf.public_bytes(Encoding.DER),)


def test_missing_client_certificate_is_rejected(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    issued = issue(NAME)
    anchor = authority.certificate.public_bytes(Encoding.DER)
    brought = {"certificate": issued.certificate, "key": issued.key, "trust_anchors": (anchor,)}

    with FakeQuicEndpoint(config=Config(certificate_request=2)) as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(quic_daemon, endpoint, **brought))
        seen = asyncio.run(ask(port))
        with pytest.raises(HandshakeRefusedError) as raised:
            serving.result(PATIENCE)
    assert raised.value.outcome.alert is Alert.CERTIFICATE_REQUIRED
    assert seen.close == closed_in_handshake(Alert.CERTIFICATE_REQUIRED)


def test_cipher_suite_is_that_of_socket_option(quic_daemon: RunningDaemon) -> None:
    outcome, seen = served(quic_daemon, lambda port: asyncio.run(ask(port)), config=Config(payload_cipher_type=54))
    assert outcome.cipher_suite is CipherSuite.CHACHA20_POLY1305_SHA256
    assert seen.data == b"hello"


def client_of(
    daemon: RunningDaemon,
    port: int,
    *,
    name: str = NAME,
    config: Config | None = None,
    session_ticket: bytes = b"",
    **options: object,
) -> tuple[Outcome, tuple[bytes, int | None], bytes]:
    """Do the client's handshake; return the outcome, the echo with error code, and the socket's session ticket."""
    with FakeQuicEndpoint(config=config, session_ticket=session_ticket) as endpoint:
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(port, b"hello")))
        connection = endpoint.next_connection()
        with connection.agent:
            try:
                outcome = quic_client_handshake(
                    connection.agent, name, options=QuicSocketOptions(path=daemon.handshake_socket, **options)
                )
            except HandshakeRefusedError as error:
                outcome = error.outcome
        return outcome, asking.result(PATIENCE), connection.socket.session_ticket


def test_client_connects_to_stock_aioquic(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    with StockServer(issue(NAME)) as server:
        outcome, echo, _ = client_of(quic_daemon, server.port, trust_anchors=(anchor,))
    assert echo == (b"hello", None)
    assert (outcome.status, outcome.alpn) == (0, b"h3")
    assert outcome.peer_certificates == (issue(NAME).leaf.public_bytes(Encoding.DER),)


def test_client_resumes_with_ticket_of_its_socket(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    config = Config(ticket_seconds=5)
    with StockServer(issue(NAME), tickets=True) as server:
        first, echo, kept = client_of(quic_daemon, server.port, trust_anchors=(anchor,), config=config)
        assert echo == (b"hello", None)
        assert not first.resumed
        second, echo, _ = client_of(
            quic_daemon, server.port, trust_anchors=(anchor,), session_ticket=kept, config=config
        )
    assert echo == (b"hello", None)
    assert second.resumed


def test_client_rejects_server_with_other_name(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    with StockServer(issue(NAME)) as server:
        outcome, echo, _ = client_of(quic_daemon, server.port, name="other.example.com", trust_anchors=(anchor,))
    assert outcome.alert is Alert.BAD_CERTIFICATE
    assert outcome.status == errno.EACCES
    assert echo == (b"", QuicError.APPLICATION_ERROR)


def test_psk_authenticates_both_ends(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"# identity: key\nsomeone:{'5a' * 32}\n")
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(quic_daemon, endpoint, psk=psk))
        outcome, echo, _ = client_of(quic_daemon, port, psk=psk)
        assert serving.result(PATIENCE).status == 0
    assert outcome.status == 0
    assert echo == (b"hello", None)


def test_unknown_psk_is_rejected(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "ours").write_text(f"someone:{'5a' * 32}\n")
    (tmp_path / "theirs").write_text(f"another:{'5a' * 32}\n")
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(quic_daemon, endpoint, psk=tmp_path / "theirs"))
        outcome, echo, _ = client_of(quic_daemon, port, psk=tmp_path / "ours")
        with pytest.raises(HandshakeRefusedError):
            serving.result(PATIENCE)
    assert outcome.status != 0
    assert echo[0] == b""


def test_asyncio_functions_do_handshakes(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)

    async def both(server: FakeQuicEndpoint, client: FakeQuicEndpoint, port: int) -> list[Outcome]:
        asking = in_thread(lambda: client.run(client.exchange(port, b"hello")))
        ours = await asyncio.to_thread(client.next_connection)
        path = quic_daemon.handshake_socket
        started = asyncio.ensure_future(
            quic_client_handshake_async(ours.agent, NAME, options=QuicSocketOptions(path=path, trust_anchors=(anchor,)))
        )
        theirs = await asyncio.to_thread(server.next_connection)
        with ours.agent, theirs.agent:
            outcomes = await asyncio.gather(
                started, quic_server_handshake_async(theirs.agent, ("h3",), QuicSocketOptions(path=path))
            )
        assert (await asyncio.wrap_future(asking))[0] == b"hello"
        return list(outcomes)

    with FakeQuicEndpoint() as server, FakeQuicEndpoint() as client:
        outcomes = asyncio.run(both(server, client, server.listen()))
    assert [outcome.status for outcome in outcomes] == [0, 0]


def test_session_ticket_is_not_in_repr() -> None:
    assert "secret" not in repr(QuicSocketOptions(session_ticket=b"secret"))
