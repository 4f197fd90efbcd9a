"""The kernel's own QUIC socket, as far as a UDP socket can stand for it: what is called, and what is refused."""

import errno
import socket
from collections.abc import Iterator

import pytest

from handshaked.datapath.quic_options import MAX_SESSION_TICKET, Option
from handshaked.datapath.quic_socket import KernelQuicSocket, kernel_quic_socket
from handshaked.errors import LocalError, Status
from handshaked.model import Level


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two UDP sockets, connected to each other."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        one.connect(two.getsockname())
        two.connect(one.getsockname())
        two.settimeout(20)
        yield one, two


def test_what_is_no_quic_socket_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(LocalError) as raised:
        kernel_quic_socket(pair[0])
    assert raised.value.status == Status.UNSUPPORTED


def test_options_that_the_kernel_does_not_know(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    for call, name in (
        (lambda: sock.option(Option.SESSION_TICKET, MAX_SESSION_TICKET), "getsockopt SESSION_TICKET"),  # of many bytes
        (lambda: sock.set_option(Option.ALPN, b"h3"), "setsockopt ALPN"),
    ):
        with pytest.raises(OSError, match=name) as raised:
            call()
        assert raised.value.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)


def test_a_message_is_one_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    sock.send(Level.INITIAL, b"hello", more=False)
    assert pair[1].recv(100) == b"hello"


def test_reading_does_not_wait_and_wants_a_level(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    assert sock.receive() is None
    pair[1].send(b"no handshake message")
    with pytest.raises(OSError, match="no handshake message") as raised:
        sock.receive()
    assert raised.value.errno == errno.ENOTCONN
