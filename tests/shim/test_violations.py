"""Servers that violate RFC 9001 after the handshake, with every client: the connection is closed with 0x0a."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from aioquic import tls
from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.datapath.quic_options import Config
from handshaked.errors import Alert, QuicError, Status
from handshaked.events import CryptoData, SessionTicket
from handshaked.model import Level
from handshaked.shim import Close, HandshakeClient, HandshakeRefusedError, QuicSocketOptions, quic_client_handshake
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from handshaked.tls import messages
from handshaked.tls.codec import push_extension
from handshaked.tls.codepoints import ExtensionType
from handshaked.wire.family import push_crypto
from handshaked.wire.messages import Acknowledged, Done
from tests.conftest import Issue
from tests.handshake_channel import HandshakeChannel, client_start, server_start, shake_hands
from tests.patience import PATIENCE, soon
from tests.quic_socket_peers import StockServer, in_thread, socket_daemon
from tests.shim.peers import serving, visiting

NAME = "quic.example.com"
REQUEST = messages.push_certificate_request(push_extension(ExtensionType.SIGNATURE_ALGORITHMS, b"\0\2\4\3"))


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue(NAME)
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
        yield daemon


@pytest.fixture
def limited_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have aioquic's servers limit early data, which QUIC forbids."""
    push = tls.push_new_session_ticket

    def push_limited(buf: Any, ticket: tls.NewSessionTicket) -> None:
        push(buf, replace(ticket, max_early_data_size=100))

    monkeypatch.setattr(tls, "push_new_session_ticket", push_limited)


@pytest.mark.usefixtures("limited_tickets")
def test_client_on_a_socket_refuses_a_ticket_that_limits_early_data(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
    options = QuicSocketOptions(
        path=quic_daemon.handshake_socket, trust_anchors=(authority.certificate.public_bytes(Encoding.DER),)
    )
    with (
        StockServer(issue(NAME), tickets=True) as server,
        FakeQuicEndpoint(config=Config(ticket_seconds=5)) as endpoint,
    ):
        asking = in_thread(lambda: endpoint.run(endpoint.exchange(server.port, b"hello")))
        connection = endpoint.next_connection()
        with connection.agent, pytest.raises(HandshakeRefusedError) as raised:
            quic_client_handshake(connection.agent, NAME, options=options)
        asking.result(PATIENCE)  # the client of the socket may have been answered before
        assert connection.socket.connection_close.is_violation
        assert connection.socket.session_ticket[:1] == b"\x04"  # as received: nothing was stored to resume with
    outcome = raised.value.outcome
    assert (outcome.status, outcome.alert) == (Status.REFUSED, Alert.ILLEGAL_PARAMETER)
    assert outcome.quic_error == QuicError.PROTOCOL_VIOLATION


@pytest.mark.usefixtures("limited_tickets")
@pytest.mark.parametrize("wanted", [True, False])
def test_aioquic_client_refuses_a_ticket_that_limits_early_data(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority, wanted: bool
) -> None:
    async def work() -> None:
        tickets: list[tls.SessionTicket] = []
        client = HandshakeClient(quic_daemon.handshake_socket)
        options: dict[str, Any] = {"session_ticket_handler": tickets.append} if wanted else {}
        async with (
            serving(certificate=issue(NAME), alpns=["h3"], session_ticket_handler=lambda _: None) as server,
            visiting(server.port, NAME, "h3", root=authority.root, client=client, **options) as caller,
        ):
            await soon(caller.wait_closed())
            assert caller.ended is not None
            assert caller.ended.error_code == QuicError.PROTOCOL_VIOLATION
        client.close()
        assert tickets == []

    asyncio.run(soon(work()))


def test_aioquic_client_refuses_a_certificate_request_after_the_handshake(
    quic_daemon: RunningDaemon, issue: Issue, authority: Authority
) -> None:
    async def work() -> None:
        client = HandshakeClient(quic_daemon.handshake_socket)
        async with (
            serving(certificate=issue(NAME), alpns=["h3"]) as server,
            visiting(server.port, NAME, "h3", root=authority.root, client=client) as caller,
        ):
            await soon(caller.ping())
            connection = server.connections[0]
            quic: Any = connection._quic  # noqa: SLF001 - aioquic has no public way to send CRYPTO data
            quic._crypto_streams[tls.Epoch.ONE_RTT].sender.write(REQUEST)  # noqa: SLF001 - as above
            connection.transmit()
            await soon(caller.wait_closed())
            assert caller.ended is not None
            assert caller.ended.error_code == QuicError.PROTOCOL_VIOLATION
        client.close()

    asyncio.run(soon(work()))


def bad_ticket(early_data: int) -> bytes:
    return messages.push_new_session_ticket(messages.NewSessionTicketMessage(60, 1, b"", b"ticket", early_data))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (bad_ticket(100), QuicError.PROTOCOL_VIOLATION),
        (REQUEST, QuicError.PROTOCOL_VIOLATION),
        (b"\x18\0\0\x01\0", Alert.UNEXPECTED_MESSAGE.quic_error),
        (b"\x04\0\0\0", Alert.DECODE_ERROR.quic_error),
    ],
    ids=["limited early data", "CertificateRequest", "KeyUpdate", "malformed"],
)
def test_endpoint_is_told_to_close_the_connection(quic_daemon: RunningDaemon, message: bytes, error: int) -> None:
    with HandshakeChannel(quic_daemon.handshake_socket) as channel:
        outcomes = shake_hands(channel, 1, 2, client_start(NAME, b"h3", ticket_seconds=30), server_start())
        assert [outcome.status for outcome in outcomes] == [0, 0]
        channel.send(push_crypto(1, CryptoData(Level.APPLICATION, bad_ticket(0xFFFFFFFF))))
        channel.until(1, SessionTicket)
        channel.send(push_crypto(1, CryptoData(Level.APPLICATION, message)))
        close = channel.until(1, Close)[-1]
        assert isinstance(close, Close)
        assert close.quic_error == error
        assert close.reason
        # Nothing follows: a second violation is not answered.
        channel.send(push_crypto(1, CryptoData(Level.APPLICATION, message), ack=True))
        assert not [each for each in channel.until(1, Acknowledged) if isinstance(each, Close | Done)]


def test_outcome_has_the_quic_error(quic_daemon: RunningDaemon) -> None:
    with HandshakeChannel(quic_daemon.handshake_socket) as channel:
        _, outcome = shake_hands(channel, 1, 2, client_start("other.example.com", b"h3"), server_start())
        assert outcome.quic_error == Alert.UNRECOGNIZED_NAME.quic_error
