"""Records of a peer: how many are read in one step, and their record_size_limit (RFC 8449) in the kernel's TLS."""

import asyncio
import socket
from typing import Any

import pytest

from handshaked.datapath.driver import Attempt
from handshaked.datapath.ktls import Capabilities
from handshaked.errors import Status
from handshaked.events import CryptoData
from handshaked.handshakes import kernel_tcp
from handshaked.model import AuthMode, CipherSuite, Role
from handshaked.registry.credentials import load_pem, open_credential
from handshaked.testing.authority import Authority
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, ServerParameters
from handshaked.tls.record import MAX_PLAINTEXT
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ClientStream, ServerStream
from tests.conftest import Issue
from tests.datapath.tcp_scene import NAME, connected

LIMIT = 600


def shake_hands(stream: ClientStream | ServerStream, sock: socket.socket, answer: ServerParameters | None) -> None:
    """Run the peer's handshake with `stream`: a client, or a server that continues with `answer`."""
    if isinstance(stream, ClientStream):
        stream.start(0.0)
    events: list[object] = []
    while not events:
        sock.sendall(stream.pull_outgoing())
        events += stream.receive(sock.recv(stream.needed()), 0.0)
        if isinstance(stream, ServerStream) and stream.waits and answer is not None:
            events += stream.proceed(answer, 0.0)
    sock.sendall(stream.pull_outgoing())


@pytest.mark.parametrize("kernel_limits", [True, False])
@pytest.mark.parametrize("role", list(Role))
def test_peers_record_size_limit_is_set_in_the_kernel(
    authority: Authority, issue: Issue, monkeypatch: pytest.MonkeyPatch, role: Role, kernel_limits: bool
) -> None:
    """A server answers a client's limit only if the client sent one, and respects it."""
    monkeypatch.setattr(kernel_tcp, "capabilities", lambda: Capabilities(tuple(CipherSuite), limits=kernel_limits))
    issued = issue(NAME)
    loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    answer = ServerParameters(
        credential=open_credential(loaded.chain, loaded.key, loaded.key_type),
        alpn=b"sunrpc",
        transport_parameters=None,
        record_size_limit=LIMIT,
    )
    asked = ClientParameters(
        alpns=(b"sunrpc",), server_name=NAME, transport_parameters=None, verifier=None, record_size_limit=LIMIT
    )
    stream: ClientStream | ServerStream
    if role is Role.SERVER:
        stream = ClientStream(ClientHandshake(asked, quic=False), LIMIT)
    else:
        stream = ServerStream(ServerHandshake(quic=False))

    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            submitted = made.submit(ours, role, peer_name=NAME, auth_mode=AuthMode.UNAUTH)
            report, _ = await asyncio.gather(submitted, asyncio.to_thread(shake_hands, stream, theirs, answer))
            assert report.status == Status.OK
            limited = role is Role.SERVER or kernel_limits
            assert made.offloaded(ours).max_payload == (LIMIT - 1 if limited else MAX_PLAINTEXT)

    asyncio.run(scenario())


def test_tiny_records_are_read_in_many_steps(
    authority: Authority, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other handshakes of the worker go on in between."""
    asked = ClientParameters(alpns=(b"sunrpc",), server_name=NAME, transport_parameters=None, verifier=None)
    hello = ClientHandshake(asked, quic=False).start(0.0)[0]
    assert isinstance(hello, CryptoData)
    records = b"".join(b"\x16\3\1\0\1" + hello.data[at : at + 1] for at in range(len(hello.data) - 1))
    steps = 0
    step = Attempt.step

    def counted(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        step(*arguments)

    monkeypatch.setattr(Attempt, "step", counted)

    async def scenario() -> None:
        async with connected(authority, issue) as (made, ours, theirs):
            theirs.sendall(records)
            theirs.shutdown(socket.SHUT_WR)
            await made.submit(ours, Role.SERVER)
            assert made.outcomes[0].status == Status.PEER_GONE

    asyncio.run(scenario())
    assert steps >= 2 * len(hello.data) / 64
