"""Handshakes on emulated QUIC sockets with foreign peers: both roles, from both upcall sources.

ngtcp2 has no PSKs (docs/explanation/quic-sockets.md); aioquic has, if a label of its key schedule is changed.
"""

import asyncio
import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, QuicError, Status
from handshaked.handshakes import keyring
from handshaked.model import AuthMode, Outcome, Role
from handshaked.shim import HandshakeRefusedError, QuicSocketOptions, quic_client_handshake, quic_server_handshake
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import Connection, FakeQuicEndpoint
from tests.conftest import Issue
from tests.datapath.foreign_peers import IDENTITY, NAME, PSK, Aioquic, Foreign, Ngtcp2, Seen, Served
from tests.datapath.kernel_scene import Scene, scene
from tests.patience import PATIENCE, until
from tests.plugins.needs import need
from tests.quic_socket_peers import (
    closed_in_handshake,
    in_thread,
    socket_daemon,
)

SEALING_KEY = b"k" * 64


class Source(Protocol):
    """Requests handshakes on a connection's socket from one upcall source of the daemon."""

    def shake(self, connection: Connection, role: Role, *, name: str = NAME, psk: bool = False) -> Outcome:
        """Run the handshake as `role`, with a PSK instead of certificates if `psk`; return the daemon's outcome."""
        ...


class UnixCallers:
    """Callers of the shim."""

    def __init__(self, daemon: RunningDaemon, anchors: tuple[bytes, ...], identity: Issued, psk: Path) -> None:
        self._path = daemon.handshake_socket
        self._anchors = anchors
        self._identity = identity
        self._psk = psk

    def shake(self, connection: Connection, role: Role, *, name: str = NAME, psk: bool = False) -> Outcome:
        """See ``Source``."""
        options = QuicSocketOptions(path=self._path, trust_anchors=self._anchors)
        if psk:
            options = replace(options, psk=self._psk)
        elif role is Role.CLIENT:
            options = replace(options, certificate=self._identity.certificate, key=self._identity.key)
        with connection.agent as agent:
            try:
                if role is Role.SERVER:
                    return quic_server_handshake(agent, options=options)
                return quic_client_handshake(agent, name, options=options)
            except HandshakeRefusedError as error:
                return error.outcome


@dataclass
class KernelConsumers:
    """Consumers in the kernel."""

    scene: Scene
    loop: asyncio.AbstractEventLoop
    serial: int | None

    def shake(self, connection: Connection, role: Role, *, name: str = NAME, psk: bool = False) -> Outcome:
        """See ``Source``."""
        asked: dict[str, Any] = {"peer_name": name if role is Role.CLIENT else None}
        if psk:
            need("keyrings")
            asked = {"auth_mode": AuthMode.PSK, "identity_keys": (self.serial,)}
        submitted = self.scene.submit(connection, role, timeout=8000, **asked)
        report = asyncio.run_coroutine_threadsafe(submitted, self.loop).result(PATIENCE)
        outcome = self.scene.outcomes[-1]
        assert (report.status == 0) == (outcome.status == 0)
        return outcome


@contextmanager
def kernel_consumers(authority: Authority, issue: Issue, identity: Issued) -> Iterator[KernelConsumers]:
    ready = threading.Event()
    made: list[tuple[KernelConsumers, asyncio.Event]] = []

    async def serve() -> None:
        try:
            serial = keyring.add_key("user", IDENTITY.decode(), PSK, keyring.PROCESS_KEYRING)
        except OSError:
            serial = None
        async with scene(authority, issue, (identity.certificate, identity.key)) as served:
            over = asyncio.Event()
            made.append((KernelConsumers(served, asyncio.get_running_loop(), serial), over))
            ready.set()
            await until(over)

    running = in_thread(lambda: asyncio.run(serve()))
    assert ready.wait(PATIENCE)
    source, over = made[0]
    try:
        yield source
    finally:
        source.loop.call_soon_threadsafe(over.set)
        running.result(PATIENCE)


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Issued:
    return authority.issue("someone", client=True, file_name="foreign-client")


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue, authority: Authority) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        files = (issued.certificate, issued.key, authority.root)
        credentials = [{"certificate": str(issued.certificate), "key": str(issued.key)}]
        daemon.ask(
            "register",
            files,
            name="web",
            alpns=["h3"],
            server_names=[NAME],
            credentials=credentials,
            client_auth="request",
            client_ca=str(authority.root),
        )
        yield daemon


@pytest.fixture(params=["unix", "kernel"])
def source(
    request: pytest.FixtureRequest,
    quic_daemon: RunningDaemon,
    authority: Authority,
    issue: Issue,
    identity: Issued,
    tmp_path: Path,
) -> Iterator[Source]:
    if request.param == "kernel":
        with kernel_consumers(authority, issue, identity) as source:
            yield source
        return
    psk = tmp_path / "psk"
    psk.write_text(f"{IDENTITY.decode()}:{PSK.hex()}\n")
    yield UnixCallers(quic_daemon, (authority.certificate.public_bytes(Encoding.DER),), identity, psk)


# The peers.


@pytest.fixture
def aioquic(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Aioquic:
    return Aioquic(authority, monkeypatch)


@pytest.fixture(params=["aioquic", "ngtcp2"])
def peer(request: pytest.FixtureRequest, aioquic: Aioquic, tmp_path: Path) -> Foreign:
    if request.param == "aioquic":
        return aioquic
    need("gtlsclient", "gtlsserver", "mount namespaces")  # gtlsclient sends only names that can be resolved
    return Ngtcp2(tmp_path)


# We are the server.


def served(source: Source, ask: Any, *, psk: bool = False, **config: int) -> tuple[Outcome, Seen]:
    """Serve the client `ask`, which is called with the port, on a socket."""
    with FakeQuicEndpoint(config=Config(**config), session_ticket=SEALING_KEY) as endpoint:
        port = endpoint.listen()
        shaking = in_thread(lambda: source.shake(endpoint.next_connection(), Role.SERVER, psk=psk))
        seen = ask(port)
        return shaking.result(PATIENCE), seen


def test_server_serves_a_foreign_client(source: Source, peer: Foreign) -> None:
    outcome, seen = served(source, peer.ask)
    assert seen.complete
    assert (outcome.status, outcome.alpn, outcome.registration, outcome.resumed) == (0, b"h3", "web", False)


def test_server_resumes(source: Source, peer: Foreign) -> None:
    # gtlsclient leaves when it has its page, which may be before it has its ticket.
    firsts = (served(source, peer.ask)[1] for _ in range(10))
    ticket = next(first.tickets[0] for first in firsts if first.tickets)
    outcome, seen = served(source, lambda port: peer.ask(port, ticket=ticket))
    assert seen.complete
    assert (outcome.status, outcome.resumed) == (0, True)


def test_server_receives_a_client_certificate(source: Source, peer: Foreign, identity: Issued) -> None:
    outcome, seen = served(source, lambda port: peer.ask(port, identity=identity), certificate_request=2)
    assert seen.complete
    assert outcome.status == 0
    assert outcome.peer_certificates[0] == identity.leaf.public_bytes(Encoding.DER)


def test_server_refuses_a_client_without_certificate(source: Source, peer: Foreign) -> None:
    outcome, seen = served(source, peer.ask, certificate_request=2)
    assert (outcome.status, outcome.alert) == (errno.EACCES, Alert.CERTIFICATE_REQUIRED)
    assert seen.close == closed_in_handshake(Alert.CERTIFICATE_REQUIRED)


def test_server_refuses_an_unknown_name(source: Source, peer: Foreign) -> None:
    outcome, seen = served(source, lambda port: peer.ask(port, name="unknown.example.com"))
    assert (outcome.status, outcome.alert) == (errno.EACCES, Alert.UNRECOGNIZED_NAME)
    assert (seen.complete, seen.close) == (False, closed_in_handshake(Alert.UNRECOGNIZED_NAME))


def test_server_accepts_a_psk(source: Source, aioquic: Aioquic) -> None:
    outcome, seen = served(source, aioquic.ask_with_psk, psk=True)
    assert seen.complete
    assert (outcome.status, outcome.registration, outcome.peer_certificates) == (0, None, ())


# We are the client.


def connected(
    source: Source, server: Served, *, ticket: bytes = b"", psk: bool = False, name: str = NAME, **config: int
) -> tuple[Outcome, tuple[bytes, int | None], bytes]:
    """Connect to `server` on a socket; return the outcome, the echo or error code, and the socket's ticket."""
    with FakeQuicEndpoint(config=Config(**config), session_ticket=ticket) as endpoint:
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(server.port, server.request)))
        connection = endpoint.next_connection()
        outcome = source.shake(connection, Role.CLIENT, name=name, psk=psk)
        return outcome, asking.result(PATIENCE), connection.socket.session_ticket


def test_client_connects_to_a_foreign_server(source: Source, peer: Foreign, issue: Issue) -> None:
    with peer.serve(issue(NAME)) as server:
        outcome, (answer, _), _ = connected(source, server)
    assert server.answer in answer
    assert (outcome.status, outcome.alpn, outcome.resumed) == (0, b"h3", False)
    assert outcome.peer_certificates[0] == issue(NAME).leaf.public_bytes(Encoding.DER)


def test_client_resumes(source: Source, peer: Foreign, issue: Issue) -> None:
    with peer.serve(issue(NAME)) as server:
        _, _, ticket = connected(source, server, ticket_seconds=5)
        outcome, (answer, _), _ = connected(source, server, ticket=ticket)
    assert server.answer in answer
    assert (outcome.status, outcome.resumed) == (0, True)


def test_client_sends_its_certificate(source: Source, peer: Foreign, issue: Issue, identity: Issued) -> None:
    with peer.serve(issue(NAME), demands=True) as server:
        outcome, (answer, _), _ = connected(source, server)
        assert server.shown(identity.leaf.public_bytes(Encoding.DER))
    assert (outcome.status, server.answer in answer) == (0, True)


def test_client_sends_no_certificate_if_its_socket_forbids_it(
    source: Source, peer: Foreign, issue: Issue, identity: Issued
) -> None:
    with peer.serve(issue(NAME), demands=True) as server:
        outcome, (answer, error_code), _ = connected(source, server, certificate_request=3)
        assert not server.shown(identity.leaf.public_bytes(Encoding.DER))
    assert outcome.status == 0  # the server refuses after the client's handshake
    assert error_code == (Alert.CERTIFICATE_REQUIRED.quic_error if server.insists else None)
    assert (server.answer in answer) is not server.insists


def test_client_refuses_a_wrong_name(source: Source, peer: Foreign, issue: Issue) -> None:
    with peer.serve(issue(NAME)) as server:
        outcome, refused, _ = connected(source, server, name="other.example.com")
    assert (outcome.status, outcome.alert) == (errno.EACCES, Alert.BAD_CERTIFICATE)
    assert refused == (b"", QuicError.APPLICATION_ERROR)


def test_client_reports_the_servers_alert(source: Source, aioquic: Aioquic, issue: Issue) -> None:
    with aioquic.serve(issue(NAME), alpn="another") as server:
        outcome, refused, _ = connected(source, server)
    assert outcome.status == Status.REFUSED  # a retry would not help
    assert refused == (b"", Alert.NO_APPLICATION_PROTOCOL.quic_error)


def test_client_uses_a_psk(source: Source, aioquic: Aioquic, issue: Issue) -> None:
    with aioquic.serve_psk(issue(NAME)) as server:
        # aioquic prefers AES-256, and looks for PSKs with its hash then; this one goes with SHA-256.
        outcome, (answer, _), _ = connected(source, server, psk=True, payload_cipher_type=51)
    assert answer == server.answer
    assert (outcome.status, outcome.peer_certificates) == (0, ())
