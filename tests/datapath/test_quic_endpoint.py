"""The emulated kernel QUIC endpoint as its peers see it."""

import asyncio

from handshaked.datapath.emulated import Kind, pull_message, push_message
from handshaked.datapath.quic_options import ConnectionClose, Option, push_connection_close
from handshaked.errors import Alert, QuicError, Status
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    ask,
    closed_in_handshake,
    in_thread,
)


def closed_with(close: ConnectionClose | None) -> ConnectionClose | None:
    """Return what a client receives when the agent sets CONNECTION_CLOSE to `close` and closes the socket."""
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        asking = in_thread(lambda: asyncio.run(ask(port)))
        with endpoint.next_connection().agent as agent:
            if close is not None:
                agent.send(push_message(Kind.SET, Option.CONNECTION_CLOSE, push_connection_close(close)))
        return asking.result(PATIENCE).close


def test_socket_closed_during_the_handshake_is_an_application_error() -> None:
    assert closed_with(None) == ConnectionClose(QuicError.APPLICATION_ERROR, "")


def test_close_during_the_handshake_replaces_the_error_code_but_not_the_phrase() -> None:
    """As seen on Linux 6.12 and 7.3 with the out-of-tree module."""
    assert closed_with(ConnectionClose(0x1FF, "a phrase")) == ConnectionClose(QuicError.APPLICATION_ERROR, "a phrase")
    close = closed_with(ConnectionClose.of(Alert.ACCESS_DENIED))
    assert close == closed_in_handshake(Alert.ACCESS_DENIED)
    assert close.alert is Alert.ACCESS_DENIED


def test_truncated_message_is_refused() -> None:
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        in_thread(lambda: asyncio.run(ask(port)))
        with endpoint.next_connection().agent as agent:
            agent.settimeout(PATIENCE)
            for packet in (b"?", push_message(Kind.SEND, 0)):
                agent.send(packet)
                kind = int(Kind.READABLE)
                while kind == Kind.READABLE:
                    kind, status, _ = pull_message(agent.recv(1024))
                assert (kind, status) == (Kind.REPLY, Status.INVALID)
