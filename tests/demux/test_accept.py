"""Delivery to applications (``accept`` and ``relay``): several users' applications share a port."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handshaked.demux.applications import AcceptBounds
from handshaked.demux.forwarded_flow import ForwarderBounds
from handshaked.errors import Alert, QuicError, Status
from handshaked.quic.packets import pull_long_header
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.wire.demux import Listen, Listening, pull_from_demux, push_listen, push_path
from handshaked.wire.demux import Path as FlowPath
from handshaked.wire.messages import Refused
from tests.demux.clients import Target, connected, echo, refusal, served, udp_sockets
from tests.demux.conftest import DEMUX_USER, FIRST_USER, SECOND_USER
from tests.patience import PATIENCE
from tests.quic.initials import client_hello, crypto, initial

UNKNOWN_VERSION = (b"\xc0\x1a\x2a\x3a\x4a" + b"\x08to serve" + b"\x09of client").ljust(1200, b"\0")
"""A datagram that is answered with Version Negotiation."""


@pytest.fixture
def target(demux: RunningDemux, authority: Authority) -> Target:
    """The demultiplexer's port."""
    return Target(demux.port, authority.root)


@pytest.mark.needs("root")
def test_two_users_share_a_port(
    demux_daemon: RunningDaemon,
    demux: RunningDemux,
    register: Callable[..., None],
    issue: Callable[..., Issued],
    target: Target,
) -> None:
    register("first", "first.example.com", "smb", user=FIRST_USER)
    register("second", "second.example.com", "smb", user=SECOND_USER)
    with (
        smb_server(demux_daemon, demux, "first", user=FIRST_USER),
        smb_server(demux_daemon, demux, "second", user=SECOND_USER),
    ):
        for name in ("first", "second"):
            assert served(target, f"{name}.example.com", "smb") == (name, issue(f"{name}.example.com").leaf)
        assert refusal(target, "third.example.com", "smb") == Alert.UNRECOGNIZED_NAME.quic_error
        assert refusal(target, "first.example.com", "h3") == Alert.NO_APPLICATION_PROTOCOL.quic_error
        assert refusal(target, None, "smb") == Alert.MISSING_EXTENSION.quic_error


@pytest.mark.needs("root")
def test_listening_requires_permission(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None]
) -> None:
    register("first", "first.example.com", "smb", user=FIRST_USER)
    with pytest.raises(RuntimeError), smb_server(demux_daemon, demux, "first", user=SECOND_USER):
        pass
    with pytest.raises(RuntimeError), smb_server(demux_daemon, demux, "nothing", user=FIRST_USER):
        pass


@pytest.mark.needs("root")
def test_losing_a_registration_ends_its_deliveries(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("first", "first.example.com", "smb", user=FIRST_USER)
    with smb_server(demux_daemon, demux, "first", user=FIRST_USER):
        assert served(target, "first.example.com", "smb")[0] == "first"
        register("first", "first.example.com", "smb", user=SECOND_USER, replace=True)
        assert refusal(target, "first.example.com", "smb") == QuicError.CONNECTION_REFUSED
        register("first", "first.example.com", "smb", user=FIRST_USER, replace=True)
        assert served(target, "first.example.com", "smb")[0] == "first"


def test_registration_changes_take_effect_immediately(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("smb", "old.example.com", "smb", user=FIRST_USER)
    with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
        for count in range(5):
            name = f"name{count}.example.com"
            assert refusal(target, name, "smb") == Alert.UNRECOGNIZED_NAME.quic_error
            register("smb", name, "smb", user=FIRST_USER, replace=True)
            assert served(target, name, "smb")[0] == "smb"
    demux_daemon.ask("unregister", name="smb")
    assert refusal(target, "name4.example.com", "smb") == Alert.UNRECOGNIZED_NAME.quic_error


def test_processes_of_one_registration_get_connections_in_turn(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)
    with (
        smb_server(demux_daemon, demux, "smb", user=FIRST_USER) as one,
        smb_server(demux_daemon, demux, "smb", user=FIRST_USER) as other,
    ):
        connections = 4

        async def scenario() -> list[int]:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(connections):
                    await stack.enter_async_context(connected(target, "smb.example.com", "smb"))
                return [udp_sockets(process.pid) for process in (one, other)]

        assert asyncio.run(scenario()) == [connections // 2] * 2


def test_registration_without_application_is_refused_immediately(
    demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)
    assert refusal(target, "smb.example.com", "smb") == QuicError.CONNECTION_REFUSED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_accepted_connections_survive_a_restart(
    number: int, demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)

    async def scenario() -> None:
        async with connected(target, "smb.example.com", "smb") as old:
            await echo(old, b"before")
            await asyncio.to_thread(demux.stop, number)
            assert await echo(old, b"meanwhile") == ("smb", b"meanwhile")
            await asyncio.to_thread(demux.start)
            async with connected(target, "smb.example.com", "smb") as new:
                assert await echo(new, b"after") == ("smb", b"after")
            assert await echo(old, b"after") == ("smb", b"after")

    with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
        asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_relayed_connections_survive_a_restart(
    number: int, demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER, deliver="relay")

    async def scenario() -> None:
        async with connected(target, "smb.example.com", "smb") as old:
            await echo(old, b"before")
            await asyncio.to_thread(demux.stop, number)
            await asyncio.to_thread(demux.start)
            assert await echo(old, b"after") == ("smb", b"after")

    with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
        asyncio.run(scenario())
    assert demux.metrics()['flows_total{reason="moved"}'] == 1


@pytest.mark.parametrize(
    ("host", "listen"),
    [("127.0.0.1", "0.0.0.0"), ("::1", "::"), ("::1", "::1")],  # noqa: S104 - clients use loopback
)
def test_port_on_wildcard_address_serves_every_local_address(
    host: str,
    listen: str,
    public_directory: Path,
    demux_daemon: RunningDaemon,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)
    with (
        RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, host=listen) as demux,
        smb_server(demux_daemon, demux, "smb", user=FIRST_USER),
    ):
        target = Target(demux.port, authority.root, host)
        for _ in range(2):
            assert served(target, "smb.example.com", "smb")[0] == "smb"
        assert refusal(target, "other.example.com", "smb") == Alert.UNRECOGNIZED_NAME.quic_error
        # The system would answer from 127.0.0.1, not from 127.0.0.2: such a flow is relayed.
        if host == "127.0.0.1":
            assert served(Target(demux.port, authority.root, "127.0.0.2"), "smb.example.com", "smb")[0] == "smb"


def test_clients_get_a_retry_under_load(
    public_directory: Path, demux_daemon: RunningDaemon, register: Callable[..., None], authority: Authority
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)
    with (
        RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, options=("--retry-from=0",)) as demux,
        smb_server(demux_daemon, demux, "smb", user=FIRST_USER),
    ):
        assert served(Target(demux.port, authority.root), "smb.example.com", "smb")[0] == "smb"
        assert demux.metrics()['answered_total{reason="retry"}'] == 1


def test_clients_of_a_stalled_application_get_no_answer(
    public_directory: Path, demux_daemon: RunningDaemon, register: Callable[..., None]
) -> None:
    register("smb", "smb.example.com", "smb")
    hello = client_hello("smb.example.com", ["smb"])
    with (
        RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, options=("--retry-from=1000000",)) as demux,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        idle.connect(os.fspath(demux.socket))
        idle.send(push_listen(1, Listen("smb")))
        assert len(idle.recv(1000)) > 16
        client.connect(("127.0.0.1", demux.port))
        while 'flows_total{reason="busy"}' not in demux.metrics():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
                another.sendto(initial(crypto(0, hello), dcid=os.urandom(8)), ("127.0.0.1", demux.port))
        client.send(initial(crypto(0, hello), dcid=os.urandom(8)))
        client.send(UNKNOWN_VERSION)
        client.settimeout(PATIENCE)
        answer = pull_long_header(client.recv(2000))
        assert answer is not None
        assert answer.version == 0, "the only answer is that to the second datagram"


@contextlib.contextmanager
def application(demux: RunningDemux, listen: Listen) -> Iterator[socket.socket]:
    """Yield the socket of an application that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.connect(os.fspath(demux.socket))
        sock.send(push_listen(1, listen))
        ((_, answer),) = pull_from_demux(sock.recv(1000))
        assert isinstance(answer, Listening)
        yield sock


@pytest.mark.parametrize("delivery", ["accept", "relay"])
def test_application_gets_no_sockets_for_other_clients(
    delivery: str, demux: RunningDemux, register: Callable[..., None], target: Target
) -> None:
    """Such a socket would receive the datagrams of another application's client."""
    register("smb", "smb.example.com", "smb", deliver=delivery)
    with application(demux, Listen("smb")) as sock:
        sock.send(push_path(2, FlowPath("127.0.0.1:9", f"127.0.0.1:{target.port}")))
        ((sequence, answer),) = pull_from_demux(sock.recv(1000))
    assert isinstance(answer, Refused)
    assert (sequence, answer.error.status) == (2, Status.REFUSED)
    assert demux.metrics()["relays"] == 0


def test_claimed_sockets_are_limited_per_user(demux: RunningDemux, register: Callable[..., None]) -> None:
    register("smb", "smb.example.com", "smb")
    most = AcceptBounds().held_per_user
    with application(demux, Listen("smb", held=1 << 24)), application(demux, Listen("smb", held=1 << 24)):
        assert demux.metrics()["accepted_flows"] == most < ForwarderBounds().connected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_with_socket_activation_loses_no_connection(
    number: int,
    public_directory: Path,
    demux_daemon: RunningDaemon,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER)

    async def scenario(demux: RunningDemux) -> None:
        target = Target(demux.port, authority.root, "127.0.0.1")
        async with connected(target, "smb.example.com", "smb") as old:
            await asyncio.to_thread(demux.stop, number)
            assert await echo(old, b"meanwhile") == ("smb", b"meanwhile")

            async def newcomer() -> tuple[str, bytes]:
                async with connected(target, "smb.example.com", "smb") as new:
                    return await echo(new, b"in the gap")

            waiting = asyncio.create_task(newcomer())
            await asyncio.to_thread(demux.start)
            assert await waiting == ("smb", b"in the gap")
            assert await echo(old, b"after") == ("smb", b"after")

    with (
        RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, host="0.0.0.0", activated=True) as demux,  # noqa: S104 - clients use loopback
        smb_server(demux_daemon, demux, "smb", user=FIRST_USER),
    ):
        asyncio.run(scenario(demux))


@pytest.mark.needs("root")
def test_application_ignores_clients_of_a_retry_that_it_does_not_know(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None]
) -> None:
    """It cannot know their original connection ID: they would reject it, and never try again."""
    register("first", "first.example.com", "smb", user=FIRST_USER)
    hello = crypto(0, client_hello("first.example.com", ["smb"]))
    with (
        smb_server(demux_daemon, demux, "first", user=FIRST_USER),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(30)
        client.connect(("127.0.0.1", demux.port))
        for source, token in ((b"first", b""), (b"retried", b"hs-retry" + bytes(50)), (b"last", b"")):
            client.send(initial(hello, dcid=source + b"-cid", scid=source, token=token))
            answered: set[bytes] = set()
            while source != b"retried" and source not in answered:
                header = pull_long_header(client.recv(2000))
                if header is not None:
                    answered.add(header.destination_cid)
                assert b"retried" not in answered
