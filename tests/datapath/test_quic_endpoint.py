"""The emulated kernel QUIC endpoint as its peers see it."""

import asyncio

from handshaked.datapath.emulated import Kind, pull_message, push_message
from handshaked.datapath.quic_options import Option, push_connection_close
from handshaked.errors import Alert, Status
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    ask,
    in_thread,
)

APPLICATION_ERROR = 0x0C


def refused_with(error_code: int | None) -> int | None:
    """Return the error that a client gets when the agent closes the socket with CONNECTION_CLOSE `error_code`."""
    with FakeQuicEndpoint() as endpoint:
        port = endpoint.listen()
        asking = in_thread(lambda: asyncio.run(ask(port)))
        with endpoint.next_connection().agent as agent:
            if error_code is not None:
                agent.send(push_message(Kind.SET, Option.CONNECTION_CLOSE, push_connection_close(error_code)))
        return asking.result(PATIENCE).error_code


def test_socket_closed_during_the_handshake_is_an_application_error() -> None:
    assert refused_with(None) == APPLICATION_ERROR


def test_socket_closed_with_an_alert_sends_it() -> None:
    assert refused_with(Alert.ACCESS_DENIED.quic_error) == Alert.ACCESS_DENIED.quic_error


def test_socket_closed_with_another_error_notifies_its_peer() -> None:
    assert refused_with(0x1FF) == APPLICATION_ERROR


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
