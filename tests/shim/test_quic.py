"""Handshakes on stand-ins for QUIC sockets through a daemon, against foreign peers, by the Python shim."""

import asyncio
import errno
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, Status
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
    """The server's handshake on the next connection of `endpoint`, whose agent's end is closed in the end."""
    connection = endpoint.next_connection()
    with connection.agent:
        return quic_server_handshake(
            connection.agent, options=QuicSocketOptions(path=daemon.handshake_socket, **options)
        )


def served(daemon: RunningDaemon, client: Callable[[int], Seen], **options: object) -> tuple[Outcome, Seen]:
    """An endpoint serves `client`, which is called with its port."""
    endpoint_options = {key: options.pop(key) for key in ("config", "session_ticket", "alpns") if key in options}
    with FakeQuicEndpoint(**endpoint_options) as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(daemon, endpoint, **options))
        answer = client(port)
        return serving.result(PATIENCE), answer


def test_a_server_serves_stock_aioquic(quic_daemon: RunningDaemon, authority: Authority) -> None:
    outcome, seen = served(quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root)))
    assert seen.data == b"hello"
    assert (outcome.status, outcome.alpn, outcome.registration, outcome.resumed) == (0, b"h3", "web", False)
    assert outcome.server_name == NAME


@pytest.mark.needs("gtlsclient", "mount namespaces")
def test_a_server_serves_gtlsclient(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    outcome, seen = served(
        quic_daemon, lambda port: ask_with_gtlsclient(port, NAME, tmp_path, "--exit-on-first-stream-close")
    )
    assert (outcome.status, outcome.registration) == (0, "web")
    assert "Negotiated ALPN is h3" in seen
    assert "QUIC handshake has completed" in seen


@pytest.mark.needs("gtlsclient", "mount namespaces")
def test_a_client_whose_key_share_is_of_no_use_is_asked_again(
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


def test_a_server_resumes_and_does_so_through_another_socket(quic_daemon: RunningDaemon, authority: Authority) -> None:
    _, first = served(quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root, wants_ticket=True)))
    outcome, second = served(
        quic_daemon, lambda port: asyncio.run(ask(port, root=authority.root, ticket=first.tickets[0]))
    )
    assert outcome.resumed
    assert second.resumed
    assert second.data == b"hello"


def test_a_client_that_goes_before_its_ticket_was_served_all_the_same(
    quic_daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Finished was verified; a ticket that cannot be sent any more made the handshake fail."""
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


def test_a_refused_client_gets_the_alert_and_the_caller_its_errno(quic_daemon: RunningDaemon) -> None:
    def serve(endpoint: FakeQuicEndpoint) -> HandshakeRefusedError:
        with pytest.raises(HandshakeRefusedError) as raised:
            serve_one(quic_daemon, endpoint)
        return raised.value

    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve(endpoint))
        seen = asyncio.run(ask(port, name="unknown.example.com"))
        error = serving.result(PATIENCE)
    assert seen.error_code == Alert.UNRECOGNIZED_NAME.quic_error
    assert error.errno == errno.EACCES
    assert error.outcome.alert is Alert.UNRECOGNIZED_NAME


def test_a_caller_brings_its_own_certificate(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
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


def test_a_server_that_requires_client_certificates_gets_one(
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


def test_a_server_that_requires_client_certificates_refuses_without(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
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
    assert seen.error_code == Alert.CERTIFICATE_REQUIRED.quic_error


def test_the_cipher_of_the_payload_is_the_sockets(quic_daemon: RunningDaemon) -> None:
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
    """A client on a socket: outcome, echo and error code, and what the socket then has as session ticket."""
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


def test_a_client_talks_to_stock_aioquic(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    with StockServer(issue(NAME)) as server:
        outcome, echo, _ = client_of(quic_daemon, server.port, trust_anchors=(anchor,))
    assert echo == (b"hello", None)
    assert (outcome.status, outcome.alpn) == (0, b"h3")
    assert outcome.peer_certificates == (issue(NAME).leaf.public_bytes(Encoding.DER),)


def test_a_client_resumes_with_the_ticket_that_its_socket_kept(
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


def test_a_client_refuses_a_server_of_another_name(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
    anchor = authority.certificate.public_bytes(Encoding.DER)
    with StockServer(issue(NAME)) as server:
        outcome, echo, _ = client_of(quic_daemon, server.port, name="other.example.com", trust_anchors=(anchor,))
    assert outcome.alert is Alert.BAD_CERTIFICATE
    assert outcome.status == errno.EACCES
    assert echo == (b"", Alert.BAD_CERTIFICATE.quic_error)


def test_both_ends_are_sockets_with_a_psk(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    psk = tmp_path / "psk"
    psk.write_text(f"# who: what\nsomeone:{'5a' * 32}\n")
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        serving = in_thread(lambda: serve_one(quic_daemon, endpoint, psk=psk))
        outcome, echo, _ = client_of(quic_daemon, port, psk=psk)
        assert serving.result(PATIENCE).status == 0
    assert outcome.status == 0
    assert echo == (b"hello", None)


def test_a_psk_that_the_server_does_not_know_is_refused(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
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


def test_the_forms_for_asyncio_do_the_same(quic_daemon: RunningDaemon, issue: Issue, authority: Authority) -> None:
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


def test_a_ticket_showed_in_a_repr() -> None:
    assert "secret" not in repr(QuicSocketOptions(session_ticket=b"secret"))


# Daemons that are not there, or not as they should be.


def blocking(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return quic_server_handshake(sock, options=options)


def awaited(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return asyncio.run(quic_server_handshake_async(sock, options=options))


both_forms = pytest.mark.parametrize("form", [blocking, awaited])
Form = Callable[[socket.socket, QuicSocketOptions], Outcome]


def refusal(form: Form, options: QuicSocketOptions) -> HandshakeRefusedError:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(HandshakeRefusedError) as raised:
        form(ours, options)
    return raised.value


@both_forms
def test_where_no_daemon_is_the_error_says_where_it_was_looked_for(form: Form, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=tmp_path / "no"))
    assert error.errno == error.outcome.status == errno.ENOENT
    assert str(tmp_path / "no") in str(error)


@both_forms
def test_a_path_that_is_too_long_is_said_to_be(form: Form, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=tmp_path / ("x" * 120)))
    assert error.errno == errno.EIO
    assert "too long" in str(error)


@both_forms
def test_a_file_that_cannot_be_opened_is_named(form: Form, quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=quic_daemon.handshake_socket, psk=tmp_path / "psk"))
    assert error.errno == errno.ENOENT
    assert str(tmp_path / "psk") in str(error)


@both_forms
def test_a_daemon_that_takes_no_connections_is_a_timeout(form: Form, tmp_path: Path) -> None:
    """The call waited for as long as the daemon hung."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as waiting:
        listener.bind(str(tmp_path / "door"))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.setblocking(False)
                one.connect(str(tmp_path / "door"))
        error = refusal(form, QuicSocketOptions(path=tmp_path / "door"))
    assert error.errno == errno.ETIMEDOUT


@both_forms
@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (b"?", errno.EIO),
        (struct.pack("=IHHIIBBxx", 28, 32, 0, 1, 0, 5, 1) + b"\xff" * 8, errno.EIO),
        (b"", errno.ECONNRESET),
    ],
    ids=["no message", "no attribute", "nothing"],
)
def test_what_a_daemon_cannot_mean_is_a_failure(form: Form, tmp_path: Path, packet: bytes, status: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "door"))
        listener.listen()

        def answer() -> None:
            door, _ = listener.accept()
            with door:
                door.recv(65536)
                door.send(packet)

        answering = in_thread(answer)
        assert refusal(form, QuicSocketOptions(path=tmp_path / "door")).errno == status
        answering.result(PATIENCE)


def test_a_program_with_many_descriptors_may_block(quic_daemon: RunningDaemon) -> None:
    """select() knows none above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    try:
        with ExitStack() as others, socket.socket() as one:
            while others.enter_context(one.dup()).fileno() < 1024:
                pass
            error = refusal(blocking, QuicSocketOptions(path=quic_daemon.handshake_socket, registration="web"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.errno == Status.FAILED  # nobody answers for the socket
