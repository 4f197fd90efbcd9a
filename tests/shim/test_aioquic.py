"""aioquic with its TLS in the daemon, over real UDP, against itself and against stock aioquic on either side."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from aioquic.tls import CipherSuite
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Alert
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Policy
from handshaked.registry.store import NewRegistration, NewTrust, Source, Store
from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import connect, outcome_of, serve
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from tests.conftest import Issue
from tests.doors import eventually
from tests.patience import soon
from tests.shim.peers import Caller, refusal, registration, serving, visiting

NAME = "quic.example.com"
V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
LARGE = os.urandom(300_000)


@pytest.fixture(scope="module")
def path(
    shared_daemon: RunningDaemon, issue: Issue, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The socket of a daemon with registrations for this module."""
    issued = issue(NAME)
    shared_daemon.register("quic", (issued.certificate, issued.key), alpns=["h3", "hq"], server_names=[NAME])
    chain = tmp_path_factory.mktemp("chain") / "large.pem"
    large = issue("large.example.com")
    chain.write_bytes(large.certificate.read_bytes() + 9 * authority.root.read_bytes())
    shared_daemon.register("large", (chain, large.key), alpns=["h3"], server_names=["large.example.com"])
    return shared_daemon.handshake_socket


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


class Sides:
    """Who is on either side: ``ours`` has its TLS in the daemon, ``stock`` is aioquic as it is."""

    def __init__(self, which: str, path: Path, issued: Issued) -> None:
        self._client, _, self._server = which.partition("-")
        self._path = path
        self._issued = issued

    @property
    def server(self) -> dict[str, Any]:
        """For ``serving``."""
        if self._server == "ours":
            return {"daemon": self._path}
        return {"certificate": self._issued, "alpns": ["h3", "hq"]}

    @property
    def client(self) -> Path | None:
        """For ``visiting``."""
        return self._path if self._client == "ours" else None


@pytest.fixture(params=["ours-ours", "stock-ours", "ours-stock"])
def sides(request: pytest.FixtureRequest, path: Path, issue: Issue) -> Sides:
    return Sides(request.param, path, issue(NAME))


def visit(sides: Sides, authority: Authority, *, server: dict[str, Any] | None = None, **options: Any) -> None:
    """A client of one kind talks to a server of the other: verified, both ways, much data."""

    async def work() -> None:
        async with (
            serving(**sides.server, **(server or {})) as served,
            visiting(served.port, NAME, "h3", root=authority.root, client=sides.client, **options) as caller,
        ):
            assert await caller.echoed(b"hello") == b"hello"
            assert await caller.echoed(LARGE) == LARGE

    run(work())


# What works.


def test_data_goes_both_ways(sides: Sides, authority: Authority) -> None:
    visit(sides, authority)


def test_retry_works(sides: Sides, authority: Authority) -> None:
    visit(sides, authority, server={"retry": True})


@pytest.mark.parametrize("suite", [CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256])
def test_cipher_suites_can_be_chosen(sides: Sides, authority: Authority, suite: CipherSuite) -> None:
    visit(sides, authority, settings={"cipher_suites": [suite]})


@pytest.mark.parametrize(
    ("client", "server", "version"),
    [
        ({"supported_versions": [V1]}, [V1, V2], V1),
        ({"supported_versions": [V2], "original_version": V2}, [V1, V2], V2),
        ({"supported_versions": [V2, V1], "original_version": V1}, [V2, V1], V2),  # a compatible upgrade
        ({"supported_versions": [V2, V1], "original_version": V2}, [V1], V1),  # by a Version Negotiation packet
    ],
    ids=["v1", "v2", "upgrade", "negotiation"],
)
def test_versions_are_negotiated(
    sides: Sides, authority: Authority, client: dict[str, Any], server: list[int], version: int
) -> None:
    async def work() -> None:
        async with (
            serving(**sides.server, settings={"supported_versions": server}) as served,
            visiting(served.port, NAME, "h3", root=authority.root, client=sides.client, settings=client) as caller,
        ):
            assert await caller.echoed(b"hello") == b"hello"
            assert caller._quic._version == version  # noqa: SLF001 - told in no other way

    run(work())


def test_keys_connection_ids_and_addresses_can_change(sides: Sides, authority: Authority) -> None:
    async def work() -> None:
        async with (
            AsyncExitStack() as stack,
            serving(**sides.server) as served,
            visiting(served.port, NAME, "h3", root=authority.root, client=sides.client) as caller,
        ):
            await caller.ping()
            for _ in range(2):
                caller.request_key_update()
                assert await caller.echoed(b"after a key update") == b"after a key update"
            caller.change_connection_id()
            assert await caller.echoed(b"after a change of ID") == b"after a change of ID"
            # Like a change of network: the same connection goes on from another socket.
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(lambda: caller, local_addr=("::", 0))
            stack.callback(transport.close)
            assert await caller.echoed(LARGE) == LARGE
            ports = {address[1] for address in served.connections[-1].addresses}
            assert len(ports) == 2

    run(work())


def test_datagram_frames_come_back(sides: Sides, authority: Authority) -> None:
    frames = {"max_datagram_frame_size": 65536}

    async def work() -> None:
        async with (
            serving(**sides.server, settings=frames) as served,
            visiting(served.port, NAME, "h3", root=authority.root, client=sides.client, settings=frames) as caller,
        ):
            caller._quic.send_datagram_frame(b"frame")  # noqa: SLF001 - aioquic's asyncio layer has no way for it
            caller.transmit()
            assert await soon(caller.frames.get()) == b"frame"

    run(work())


@pytest.mark.parametrize("ours", [False, True])
def test_a_chain_that_spans_many_datagrams_arrives(path: Path, authority: Authority, ours: bool) -> None:
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


def test_lost_packets_only_cost_time(path: Path, authority: Authority) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with (
            serving(daemon=path) as server,
            lossy(server.port) as port,
            visiting(port, NAME, "h3", root=authority.root, client=client) as caller,
        ):
            assert await caller.echoed(LARGE[:20_000]) == LARGE[:20_000]
        client.close()

    run(work())


class _Relay(asyncio.DatagramProtocol):
    """Passes datagrams on between one client and a server; drops every fifth, repeats every third, swaps two."""

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


def lossy(port: int) -> Any:
    """A port of its own that leads to `port`, badly."""

    class Way:
        async def __aenter__(self) -> int:
            loop = asyncio.get_running_loop()
            self.transport, _ = await loop.create_datagram_endpoint(lambda: _Relay(port), local_addr=("127.0.0.1", 0))
            found: int = self.transport.get_extra_info("sockname")[1]
            return found

        async def __aexit__(self, *_: object) -> None:
            self.transport.close()

    return Way()


@pytest.mark.parametrize("count", [50, pytest.param(400, marks=pytest.mark.slow)])
def test_many_connections_at_once(path: Path, authority: Authority, count: int) -> None:
    async def work() -> None:
        client = HandshakeClient(path)

        async def one(number: int) -> bytes:
            async with visiting(server.port, NAME, "h3", root=authority.root, client=client) as caller:
                return await caller.echoed(b"%d" % number)

        async with serving(daemon=path) as server:
            answers = await asyncio.gather(*(one(number) for number in range(count)))
        assert answers == [b"%d" % number for number in range(count)]
        client.close()

    run(work())


def test_the_outcome_tells_who_served_and_who_was_served(path: Path, authority: Authority, issue: Issue) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with (
            serving(daemon=path) as server,
            visiting(server.port, NAME, "hq", "h3", root=authority.root, client=client) as caller,
        ):
            outcome = outcome_of(caller)
            assert outcome is not None
            leaf = issue(NAME).leaf.public_bytes(Encoding.DER)
            assert (outcome.alpn, outcome.peer_certificates) == (b"hq", (leaf,))
            await caller.ping()
            assert registration(server) == "quic"
        client.close()

    run(work())


def test_tickets_of_a_stock_server_are_ignored_without_a_handler(
    path: Path, authority: Authority, issue: Issue
) -> None:
    tickets: list[Any] = []

    async def work() -> None:
        client = HandshakeClient(path)
        options = {"session_ticket_fetcher": lambda _: None, "session_ticket_handler": tickets.append}
        async with (
            serving(certificate=issue(NAME), alpns=["h3"], **options) as server,
            visiting(server.port, NAME, "h3", root=authority.root, client=client) as caller,
        ):
            await caller.ping()
            assert await caller.echoed(b"hello") == b"hello"
        client.close()

    run(work())
    assert tickets


# Client certificates.


@pytest.fixture
def strict(public_directory: Path, authority: Authority, issue: Issue) -> RunningDaemon:
    """A daemon, not started, whose one registration requires client certificates; and one for a client."""
    daemon = RunningDaemon(public_directory)
    server, client = issue(NAME), authority.issue("client.example.com", client=True, file_name="quic-client")
    store = Store(daemon.state_directory / DATABASE)
    for name, issued, names, policy in (
        ("strict", server, (NAME,), Policy(client_auth="require")),
        ("client", client, ("client.example.com",), Policy()),
    ):
        loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        trust = NewTrust(authority.root.read_bytes()) if name == "strict" else None
        store.register(
            NewRegistration(name, 0, names, (b"h3",), ((loaded, Source()),), policy=policy, client_trust=trust)
        )
    store.close()
    return daemon


def test_a_client_authenticates_with_a_registration(strict: RunningDaemon, authority: Authority) -> None:
    async def work() -> None:
        client = HandshakeClient(strict.handshake_socket)
        async with serving(daemon=strict.handshake_socket) as server:
            async with visiting(
                server.port, NAME, "h3", root=authority.root, client=client, registration="client"
            ) as caller:
                assert await caller.echoed(b"hello") == b"hello"
                outcome = outcome_of(server.connections[-1])
                assert outcome is not None
                assert len(outcome.peer_certificates) == 1
            # Without one the client thinks it is connected, until the server says otherwise.
            async with visiting(
                server.port, NAME, "h3", root=authority.root, client=client, wait_connected=False
            ) as caller:
                caller.transmit()
                await caller.wait_closed()
                assert caller.ended is not None
                assert caller.ended.error_code == Alert.CERTIFICATE_REQUIRED.quic_error
        client.close()

    with strict:
        run(work())


# What is refused, with the right error.


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize(
    ("name", "alpn", "alert"),
    [
        ("unknown.example.com", "h3", Alert.UNRECOGNIZED_NAME),
        (NAME, "unknown", Alert.NO_APPLICATION_PROTOCOL),
        (None, "h3", Alert.MISSING_EXTENSION),
    ],
)
def test_a_refused_client_gets_the_alert(path: Path, name: str | None, alpn: str, alert: Alert, ours: bool) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        async with serving(daemon=path) as server:
            ended = await refusal(server.port, name, alpn, client=client if ours else None)
            assert ended.error_code == alert.quic_error
        client.close()

    run(work())


def test_a_server_limits_its_protocols_and_registration(path: Path) -> None:
    async def work() -> None:
        async with serving(daemon=path, alpns=["h3"]) as server:
            assert (await refusal(server.port, NAME, "hq")).error_code == Alert.NO_APPLICATION_PROTOCOL.quic_error
        async with serving(daemon=path, registration="large") as server:
            assert (await refusal(server.port, NAME, "h3")).error_code == Alert.UNRECOGNIZED_NAME.quic_error

    run(work())


@pytest.mark.parametrize(
    ("fault", "by_daemon"), [("authority", True), ("authority", False), ("name", False), ("expired", False)]
)
def test_our_client_refuses_a_server_that_it_cannot_verify(
    path: Path, authority: Authority, issue: Issue, tmp_path: Path, fault: str, by_daemon: bool
) -> None:
    name = {"authority": NAME, "name": "other.example.com", "expired": NAME}[fault]
    root = Authority(tmp_path, "another CA").root if fault == "authority" else authority.root
    issued = issue(NAME)
    if fault == "expired":
        issued = authority.issue(NAME, valid=(-3, -1), file_name="quic-expired")
    alert = {"authority": Alert.UNKNOWN_CA, "name": Alert.BAD_CERTIFICATE, "expired": Alert.CERTIFICATE_EXPIRED}[fault]

    async def work() -> None:
        client = HandshakeClient(path)
        side: dict[str, Any] = {"daemon": path} if by_daemon else {"certificate": issued, "alpns": ["h3"]}
        async with serving(**side) as server:
            ended = await refusal(server.port, name, "h3", root=root, client=client)
            assert ended.error_code == alert.quic_error
            assert ended.reason_phrase
        client.close()

    run(work())


def test_keys_and_unsupported_settings_are_refused_at_once(path: Path, issue: Issue, tmp_path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        issued = issue(NAME)
        holding = QuicConfiguration(is_client=False)
        holding.load_cert_chain(issued.certificate, issued.key)
        with pytest.raises(ValueError, match="register it with the daemon"):
            await serve("127.0.0.1", 0, configuration=holding, client=client)
        holding.is_client = True
        with pytest.raises(ValueError, match="register it with the daemon"):
            async with connect("127.0.0.1", 1, configuration=holding, client=client):
                pass
        with pytest.raises(ValueError, match="capath is not supported"):
            async with connect("127.0.0.1", 1, configuration=QuicConfiguration(capath=str(tmp_path)), client=client):
                pass

    run(work())


# Daemons that are away.


def test_without_a_daemon_both_sides_say_internal_error(tmp_path: Path, path: Path, issue: Issue) -> None:
    nothing = tmp_path / "nothing"

    async def work() -> None:
        async with serving(daemon=nothing) as server:
            ended = await refusal(server.port, NAME, "h3")
            assert ended.error_code == QuicErrorCode.INTERNAL_ERROR
        async with serving(certificate=issue(NAME), alpns=["h3"]) as server:
            ended = await refusal(server.port, NAME, "h3", client=nothing)
            assert ended.error_code == QuicErrorCode.INTERNAL_ERROR
            assert "cannot start the handshake in the daemon: No such file" in ended.reason_phrase

    run(work())


def test_while_the_daemon_is_silent_the_loop_goes_on_and_the_connection_waits(
    daemon: RunningDaemon, authority: Authority, issue: Issue
) -> None:
    issued = issue(NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    workers = daemon.worker_pids()

    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        async with serving(daemon=daemon.handshake_socket) as server:
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)

            async def connected() -> bytes:
                async with visiting(server.port, NAME, "h3", root=authority.root, client=client) as caller:
                    return await caller.echoed(b"hello")

            task = asyncio.create_task(connected())
            turns = 0
            late = asyncio.get_running_loop().time() + 0.5
            while asyncio.get_running_loop().time() < late:
                await asyncio.sleep(0)
                turns += 1
            assert turns > 1000
            assert not task.done()
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert await task == b"hello"
        client.close()

    run(work())


def test_a_daemon_that_dies_in_the_middle_ends_the_connection(
    daemon: RunningDaemon, authority: Authority, issue: Issue
) -> None:
    issued = issue(NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    workers = daemon.worker_pids()

    async def work() -> None:
        async with serving(daemon=daemon.handshake_socket) as server:
            async with visiting(server.port, NAME, "h3", root=authority.root) as before:
                await before.ping()  # the server, too, has completed the handshake
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
                refused = asyncio.create_task(refusal(server.port, NAME, "h3"))
                await asyncio.to_thread(eventually, lambda: len(server.connections) > 1)
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                assert (await refused).error_code == QuicErrorCode.INTERNAL_ERROR
                # What is established needs no daemon any more.
                assert await before.echoed(b"still here") == b"still here"
            await asyncio.to_thread(eventually, lambda: len(daemon.worker_pids()) == 2)
            async with visiting(server.port, NAME, "h3", root=authority.root) as after:
                assert await after.echoed(b"again") == b"again"

    run(work())


# Giving up.


def test_closing_during_the_handshake_leaves_nothing_behind(
    daemon: RunningDaemon, authority: Authority, issue: Issue
) -> None:
    issued = issue(NAME)
    daemon.register("quic", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])

    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        async with serving(daemon=daemon.handshake_socket) as server:
            for turns in (0, 1, 2, 5, 10, 50):
                async with visiting(
                    server.port, NAME, "h3", root=authority.root, client=client, wait_connected=False
                ) as caller:
                    caller.transmit()
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    caller.close()
                    await caller.wait_closed()
            async with visiting(server.port, NAME, "h3", root=authority.root, client=client) as caller:
                assert await caller.echoed(b"hello") == b"hello"
        client.close()

    run(work())
    assert eventually(lambda: sum(one["in_flight"] for one in daemon.ask("status")["workers"]) == 0)
    assert "Traceback" not in daemon.log.read_text()


def test_a_canceled_connect_leaves_nothing_behind(path: Path, shared_daemon: RunningDaemon) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        with ExitStack() as stack:
            hole = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            hole.bind(("127.0.0.1", 0))
            hole.setblocking(False)
            port = hole.getsockname()[1]

            async def connected() -> Caller:
                async with visiting(port, NAME, "h3", client=client) as caller:
                    return caller

            task = asyncio.create_task(connected())
            await asyncio.get_running_loop().sock_recv(hole, 2000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        client.close()

    run(work())
    assert eventually(lambda: sum(one["in_flight"] for one in shared_daemon.ask("status")["workers"]) == 0)


_WAITING = """
import asyncio, socket, sys
from pathlib import Path
from handshaked.shim import HandshakeClient
from tests.shim.peers import visiting

async def work():
    hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hole.bind(("127.0.0.1", 0))
    hole.setblocking(False)
    client = HandshakeClient(Path(sys.argv[1]))

    async def tell():
        await asyncio.get_running_loop().sock_recv(hole, 2000)
        print("waiting", flush=True)

    telling = asyncio.create_task(tell())
    try:
        async with visiting(hole.getsockname()[1], "quic.example.com", "h3", client=client):
            pass
    finally:
        client.close()
        hole.close()

asyncio.run(work())
"""


def test_ctrl_c_during_a_handshake_ends_the_program_cleanly(path: Path) -> None:
    with ending(
        subprocess.Popen(
            # Tests that a shell runs in the background would hand down that SIGINT is ignored.
            ["env", "--default-signal=INT", sys.executable, "-W", "error", "-c", _WAITING, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        error = program.stderr.read()
        assert program.wait(20) == -signal.SIGINT
    assert error.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in error
