"""QUIC sockets from the kernel source: a consumer requests a handshake and then continues on its socket."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, Status
from handshaked.handshakes import keyring
from handshaked.model import AuthMode, Role
from handshaked.testing.authority import Authority
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from handshaked.upcall.fake_kernel import Submission
from tests.conftest import Issue
from tests.datapath.kernel_scene import NAME, scene
from tests.handshake_channel import eventually
from tests.patience import PATIENCE
from tests.peer_keys import key_describes
from tests.quic_socket_peers import (
    StockServer,
    ask,
    closed_in_handshake,
    descriptors_of,
    left_alone,
    waits,
)


def in_background(work: Callable[[], Coroutine[Any, Any, Any]]) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(work())))


def test_server_handshake_succeeds(authority: Authority, issue: Issue) -> None:
    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue) as made:
            asking = in_background(lambda: ask(port, root=authority.root))
            connection = await asyncio.to_thread(endpoint.next_connection)
            report = await made.submit(connection, Role.SERVER, timeout=3000)
            assert report.status == 0
            assert (await asking).data == b"hello"
            assert (made.outcomes[0].registration, made.outcomes[0].alpn) == ("web", b"h3")

    with FakeQuicEndpoint() as endpoint:
        asyncio.run(play(endpoint, endpoint.listen()))


@pytest.mark.needs("keyrings")
def test_server_receives_a_client_certificate(authority: Authority, issue: Issue) -> None:
    identity = authority.issue("someone", client=True, file_name="kernel-client")

    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue) as made:
            asking = in_background(lambda: ask(port, identity=identity))
            connection = await asyncio.to_thread(endpoint.next_connection)
            report = await made.submit(connection, Role.SERVER, timeout=3000)
            assert report.status == 0
            assert key_describes(report.peer_keys[0], identity.leaf)
            assert (await asking).data == b"hello"
            assert made.outcomes[0].peer_certificates == (identity.leaf.public_bytes(Encoding.DER),)

    with FakeQuicEndpoint(config=Config(certificate_request=2)) as endpoint:
        asyncio.run(play(endpoint, endpoint.listen()))


def test_server_without_trust_cannot_require_client_certificates(authority: Authority, issue: Issue) -> None:
    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue, trusts=False) as made:
            asking = in_background(lambda: ask(port))
            connection = await asyncio.to_thread(endpoint.next_connection)
            assert (await made.submit(connection, Role.SERVER, timeout=3000)).status == Status.NO_KEY
            assert (await asking).data == b""

    with FakeQuicEndpoint(config=Config(certificate_request=2)) as endpoint:
        asyncio.run(play(endpoint, endpoint.listen()))


def test_server_resumes_with_the_key_of_its_listener(authority: Authority, issue: Issue) -> None:
    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue) as made:
            first, ticket = None, None
            for _ in range(2):
                asked = {"root": authority.root, "ticket": ticket, "wants_ticket": True}
                asking = in_background(lambda asked=asked: ask(port, **asked))
                connection = await asyncio.to_thread(endpoint.next_connection)
                assert (await made.submit(connection, Role.SERVER, timeout=3000)).status == 0
                first = await asking
                ticket = first.tickets[0]
            assert [outcome.resumed for outcome in made.outcomes] == [False, True]

    with FakeQuicEndpoint(session_ticket=b"k" * 64) as endpoint:
        asyncio.run(play(endpoint, endpoint.listen()))


def test_refused_client_gets_an_alert(authority: Authority, issue: Issue) -> None:
    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue) as made:
            asking = in_background(lambda: ask(port, name="unknown.example.com"))
            connection = await asyncio.to_thread(endpoint.next_connection)
            assert (await made.submit(connection, Role.SERVER, timeout=3000)).status == Status.REFUSED
            assert (await asking).close == closed_in_handshake(Alert.UNRECOGNIZED_NAME)

    with FakeQuicEndpoint() as endpoint:
        asyncio.run(play(endpoint, endpoint.listen()))


@pytest.mark.needs("keyrings")
@pytest.mark.parametrize("mode", [AuthMode.UNAUTH, AuthMode.X509])
def test_client_handshake_succeeds(authority: Authority, issue: Issue, mode: AuthMode) -> None:
    identity = authority.issue("someone", client=True, file_name="kernel-client")

    async def play(endpoint: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue, (identity.certificate, identity.key)) as made:
            echoing = asyncio.ensure_future(asyncio.to_thread(lambda: endpoint.run(endpoint.exchange(port, b"hello"))))
            connection = await asyncio.to_thread(endpoint.next_connection)
            report = await made.submit(connection, Role.CLIENT, timeout=3000, peer_name=NAME, auth_mode=mode)
            assert report.status == 0
            assert key_describes(report.peer_keys[0], issue(NAME).leaf)
            assert await echoing == (b"hello", None)

    with StockServer(issue(NAME)) as server, FakeQuicEndpoint() as endpoint:
        asyncio.run(play(endpoint, server.port))


@pytest.mark.needs("keyrings")
def test_psk_is_found_by_its_serial(authority: Authority, issue: Issue) -> None:
    serial = keyring.add_key("user", "handshaked test: quic", b"p" * 32, keyring.PROCESS_KEYRING)

    async def play(ours: FakeQuicEndpoint, theirs: FakeQuicEndpoint, port: int) -> None:
        async with scene(authority, issue) as made:
            echoing = asyncio.ensure_future(asyncio.to_thread(lambda: ours.run(ours.exchange(port, b"hello"))))
            asked = {"timeout": 3000, "auth_mode": AuthMode.PSK, "identity_keys": (serial,)}
            client = await asyncio.to_thread(ours.next_connection)
            first = asyncio.ensure_future(made.submit(client, Role.CLIENT, **asked))
            server = await asyncio.to_thread(theirs.next_connection)
            await asyncio.gather(first, made.submit(server, Role.SERVER, **asked))
            assert [report.status for report in made.family.reports] == [0, 0]
            assert [report.peer_keys for report in made.family.reports] == [(serial,)] * 2
            assert await echoing == (b"hello", None)

    with FakeQuicEndpoint() as ours, FakeQuicEndpoint() as theirs:
        asyncio.run(play(ours, theirs, theirs.listen()))


@pytest.mark.parametrize("role", list(Role))
def test_vanished_peer_is_a_timeout(authority: Authority, issue: Issue, role: Role) -> None:
    async def play(endpoint: FakeQuicEndpoint) -> None:
        connection = left_alone(endpoint, role)
        ours = os.readlink(f"/proc/self/fd/{connection.agent.fileno()}")
        async with scene(authority, issue) as made:
            name = NAME if role is Role.CLIENT else None
            report = await made.submit(connection, role, timeout=1000, peer_name=name, auth_mode=AuthMode.UNAUTH)
            assert report.status == Status.TIMED_OUT
            assert waits(connection)
            assert len(made.family.reports) == len(made.outcomes) == 1
        assert ours not in descriptors_of("self")

    with FakeQuicEndpoint() as endpoint:
        asyncio.run(play(endpoint))


@pytest.mark.parametrize("role", list(Role))
def test_consumer_that_closes_its_socket_is_reported(authority: Authority, issue: Issue, role: Role) -> None:
    """A killed consumer does the same; it cannot be distinguished from a peer that closes."""

    async def play(endpoint: FakeQuicEndpoint) -> None:
        connection = left_alone(endpoint, role)
        ours = os.readlink(f"/proc/self/fd/{connection.agent.fileno()}")
        async with scene(authority, issue) as made:
            name = NAME if role is Role.CLIENT else None
            asked = {"timeout": 20_000, "peer_name": name, "auth_mode": AuthMode.UNAUTH}
            submitted = asyncio.ensure_future(made.submit(connection, role, **asked))
            assert await asyncio.to_thread(eventually, lambda: waits(connection))
            await asyncio.to_thread(endpoint.close_sockets)
            assert (await submitted).status == Status.TIMED_OUT  # a consumer may try again
            assert [outcome.status for outcome in made.outcomes] == [Status.PEER_GONE]
            assert len(made.family.reports) == 1
        assert ours not in descriptors_of("self")

    with FakeQuicEndpoint() as endpoint:
        asyncio.run(play(endpoint))


def test_other_socket_is_refused(authority: Authority, issue: Issue) -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            async with scene(authority, issue) as made:
                made.family.submit(Submission(ours, Role.SERVER))
                async with asyncio.timeout(PATIENCE), made.changed:
                    await made.changed.wait_for(lambda: bool(made.family.reports))
                assert made.family.reports[0].status == Status.UNSUPPORTED
        ours.close()

    asyncio.run(play())
