"""aioquic with its TLS in the daemon, over real UDP, against itself and against stock aioquic on either side."""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.registry.credentials import load_pem
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import ClientTrust, NewRegistration, Source
from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import outcome_of
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.patience import soon
from tests.shim.conftest import QUIC_NAME
from tests.shim.peers import registration, serving, visiting

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
LARGE = os.urandom(300_000)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


class Pair:
    """The implementation on each side: ``ours`` has its TLS in the daemon, ``stock`` is plain aioquic."""

    def __init__(self, which: str, path: Path, issued: Issued) -> None:
        self._client, _, self._server = which.partition("-")
        self._path = path
        self._issued = issued

    @property
    def server(self) -> dict[str, Any]:
        """Arguments for ``serving``."""
        if self._server == "ours":
            return {"daemon": self._path}
        return {"certificate": self._issued, "alpns": ["h3", "hq"]}

    @property
    def client(self) -> Path | None:
        """Argument `client` for ``visiting``."""
        return self._path if self._client == "ours" else None


@pytest.fixture(params=["ours-ours", "stock-ours", "ours-stock"])
def pair(request: pytest.FixtureRequest, path: Path, issue: Issue) -> Pair:
    return Pair(request.param, path, issue(QUIC_NAME))


def exchange(pair: Pair, authority: Authority, *, server: dict[str, Any] | None = None, **options: Any) -> None:
    """Connect a client that verifies its server, and have a little and much data echoed."""

    async def work() -> None:
        async with (
            serving(**pair.server, **(server or {})) as served,
            visiting(served.port, QUIC_NAME, "h3", root=authority.root, client=pair.client, **options) as caller,
        ):
            assert await caller.echoed(b"hello") == b"hello"
            assert await caller.echoed(LARGE) == LARGE

    run(work())


def test_data_flows_in_both_directions(pair: Pair, authority: Authority) -> None:
    exchange(pair, authority)


def test_retry_is_supported(pair: Pair, authority: Authority) -> None:
    exchange(pair, authority, server={"retry": True})


@pytest.mark.parametrize("suite", [CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256])
def test_client_can_restrict_cipher_suites(pair: Pair, authority: Authority, suite: CipherSuite) -> None:
    exchange(pair, authority, settings={"cipher_suites": [suite]})


@pytest.mark.parametrize(
    ("client", "server", "version"),
    [
        ({"supported_versions": [V1]}, [V1, V2], V1),
        ({"supported_versions": [V2], "original_version": V2}, [V1, V2], V2),
        (
            {"supported_versions": [V2, V1], "original_version": V1},
            [V2, V1],
            V2,
        ),  # compatible version negotiation (RFC 9368)
        ({"supported_versions": [V2, V1], "original_version": V2}, [V1], V1),  # by Version Negotiation packet
    ],
    ids=["v1", "v2", "upgrade", "negotiation"],
)
def test_quic_version_is_negotiated(
    pair: Pair, authority: Authority, client: dict[str, Any], server: list[int], version: int
) -> None:
    async def work() -> None:
        async with (
            serving(**pair.server, settings={"supported_versions": server}) as served,
            visiting(served.port, QUIC_NAME, "h3", root=authority.root, client=pair.client, settings=client) as caller,
        ):
            assert await caller.echoed(b"hello") == b"hello"
            assert caller._quic._version == version  # noqa: SLF001 - aioquic has no public way

    run(work())


def test_connection_survives_change_of_keys_connection_id_and_address(pair: Pair, authority: Authority) -> None:
    async def work() -> None:
        async with (
            AsyncExitStack() as stack,
            serving(**pair.server) as served,
            visiting(served.port, QUIC_NAME, "h3", root=authority.root, client=pair.client) as caller,
        ):
            await caller.ping()
            for _ in range(2):
                caller.request_key_update()
                assert await caller.echoed(b"after a key update") == b"after a key update"
            caller.change_connection_id()
            assert await caller.echoed(b"after a change of ID") == b"after a change of ID"
            # Like a change of network: the connection continues on another socket.
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: caller, local_addr=("::", 0))
            stack.callback(transport.close)
            assert await caller.echoed(LARGE) == LARGE
            ports = {address[1] for address in served.connections[-1].addresses}
            assert len(ports) == 2

    run(work())


def test_datagram_frames_are_echoed(pair: Pair, authority: Authority) -> None:
    frames = {"max_datagram_frame_size": 65536}

    async def work() -> None:
        async with (
            serving(**pair.server, settings=frames) as served,
            visiting(served.port, QUIC_NAME, "h3", root=authority.root, client=pair.client, settings=frames) as caller,
        ):
            caller._quic.send_datagram_frame(b"frame")  # noqa: SLF001 - aioquic's asyncio layer has no public way
            caller.transmit()
            assert await soon(caller.frames.get()) == b"frame"

    run(work())


@pytest.mark.parametrize("ours", [False, True])
def test_certificate_chain_may_span_many_datagrams(path: Path, authority: Authority, ours: bool) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with (
            serving(daemon=path) as server,
            visiting(
                server.port, "large.example.com", "h3", root=authority.root, client=client if ours else None
            ) as caller,
        ):
            assert await caller.echoed(b"hello") == b"hello"
            outcome = outcome_of(caller)
            if outcome is not None:
                assert len(outcome.peer_certificates) == 10
        client.close()

    run(work())


def test_handshake_survives_packet_loss(path: Path, authority: Authority) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with (
            serving(daemon=path) as server,
            lossy_link(server.port) as port,
            visiting(port, QUIC_NAME, "h3", root=authority.root, client=client) as caller,
        ):
            assert await caller.echoed(LARGE[:20_000]) == LARGE[:20_000]
        client.close()

    run(work())


class _LossyRelay(asyncio.DatagramProtocol):
    """Forwards datagrams between a client and a server; drops every fifth, duplicates every third, reorders some."""

    def __init__(self, port: int) -> None:
        self.server = ("127.0.0.1", port)
        self.client: Any = None
        self.count = 0
        self.kept: tuple[bytes, Any] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if addr != self.server:
            self.client = addr
        target = self.client if addr == self.server else self.server
        self.count += 1
        if self.count % 5 == 0:
            return
        if self.count % 7 == 0 and self.kept is None:
            self.kept = (data, target)
            return
        for _ in range(2 if self.count % 3 == 0 else 1):
            self.transport.sendto(data, target)
        if self.kept is not None:
            self.transport.sendto(*self.kept)
            self.kept = None


def lossy_link(port: int) -> Any:
    """A port from which a lossy link leads to `port`."""

    class Link:
        async def __aenter__(self) -> int:
            loop = asyncio.get_running_loop()
            self.transport, _ = await loop.create_datagram_endpoint(
                lambda: _LossyRelay(port), local_addr=("127.0.0.1", 0)
            )
            found: int = self.transport.get_extra_info("sockname")[1]
            return found

        async def __aexit__(self, *_: object) -> None:
            self.transport.close()

    return Link()


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_many_connections_at_once_succeed(path: Path, authority: Authority, count: int) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        handshakes = asyncio.Semaphore(8)  # each has a deadline, which they would miss all at once on a busy machine

        async def one(number: int) -> bytes:
            async with AsyncExitStack() as stack:
                async with handshakes:
                    connection = visiting(server.port, QUIC_NAME, "h3", root=authority.root, client=client)
                    caller = await stack.enter_async_context(connection)
                    await caller.ping()  # the server has completed the handshake too
                return await caller.echoed(b"%d" % number)

        async with serving(daemon=path) as server, asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(one(number)) for number in range(count)]
        assert [await answer for answer in answers] == [b"%d" % number for number in range(count)]
        client.close()

    run(work())


def test_outcome_has_peer_certificates_and_registration(path: Path, authority: Authority, issue: Issue) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with (
            serving(daemon=path) as server,
            visiting(server.port, QUIC_NAME, "hq", "h3", root=authority.root, client=client) as caller,
        ):
            outcome = outcome_of(caller)
            assert outcome is not None
            leaf = issue(QUIC_NAME).leaf.public_bytes(Encoding.DER)
            assert (outcome.alpn, outcome.peer_certificates) == (b"hq", (leaf,))
            await caller.ping()
            assert registration(server) == "quic"
        client.close()

    run(work())


def test_session_tickets_are_ignored_without_handler(path: Path, authority: Authority, issue: Issue) -> None:
    tickets: list[Any] = []

    async def work() -> None:
        client = HandshakeClient(path)
        options = {"session_ticket_fetcher": lambda _: None, "session_ticket_handler": tickets.append}
        async with (
            serving(certificate=issue(QUIC_NAME), alpns=["h3"], **options) as server,
            visiting(server.port, QUIC_NAME, "h3", root=authority.root, client=client) as caller,
        ):
            await caller.ping()
            assert await caller.echoed(b"hello") == b"hello"
        client.close()

    run(work())
    assert tickets


@pytest.fixture
def strict(public_directory: Path, authority: Authority, issue: Issue) -> RunningDaemon:
    """A daemon, not started, with a registration that requires client certificates and one for a client."""
    daemon = RunningDaemon(public_directory)
    server, client = issue(QUIC_NAME), authority.issue("client.example.com", client=True, file_name="quic-client")
    store = SqliteRegistryWriter(daemon.state_directory / DATABASE)
    for name, issued, names, policy in (
        ("strict", server, (QUIC_NAME,), Policy(client_auth="require")),
        ("client", client, ("client.example.com",), Policy()),
    ):
        loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        trust = ClientTrust(authority.root.read_bytes()) if name == "strict" else None
        store.register(
            NewRegistration(
                name, os.geteuid(), names, (b"h3",), ((loaded, Source()),), policy=policy, client_trust=trust
            )
        )
    store.close()
    return daemon


def test_client_authenticates_with_registered_certificate(strict: RunningDaemon, authority: Authority) -> None:
    async def work() -> None:
        client = HandshakeClient(strict.handshake_socket)
        async with serving(daemon=strict.handshake_socket) as server:
            async with visiting(
                server.port, QUIC_NAME, "h3", root=authority.root, client=client, registration="client"
            ) as caller:
                assert await caller.echoed(b"hello") == b"hello"
                outcome = outcome_of(server.connections[-1])
                assert outcome is not None
                assert len(outcome.peer_certificates) == 1
            # Without a certificate the client completes its handshake before the server rejects it.
            async with visiting(
                server.port, QUIC_NAME, "h3", root=authority.root, client=client, wait_connected=False
            ) as caller:
                caller.transmit()
                await caller.wait_closed()
                assert caller.ended is not None
                assert caller.ended.error_code == Alert.CERTIFICATE_REQUIRED.quic_error
        client.close()

    with strict:
        run(work())
