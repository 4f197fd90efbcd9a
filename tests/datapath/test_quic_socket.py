"""The kernel's QUIC socket, as far as a UDP socket can replace it: its system calls and errors."""

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
    """Return two connected UDP sockets."""
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


def test_other_sockets_are_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(LocalError) as raised:
        kernel_quic_socket(pair[0])
    assert raised.value.status == Status.UNSUPPORTED


def test_unknown_option_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    for call, name in (
        (lambda: sock.option(Option.SESSION_TICKET, MAX_SESSION_TICKET), "getsockopt SESSION_TICKET"),  # of many bytes
        (lambda: sock.set_option(Option.ALPN, b"h3"), "setsockopt ALPN"),
    ):
        with pytest.raises(OSError, match=name) as raised:
            call()
        assert raised.value.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)


def test_message_is_sent_as_one_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    sock.send(Level.INITIAL, b"hello", more=False)
    assert pair[1].recv(100) == b"hello"


def test_receive_does_not_block_and_requires_a_level(pair: tuple[socket.socket, socket.socket]) -> None:
    sock = KernelQuicSocket(pair[0])
    assert sock.receive() is None
    pair[1].send(b"no handshake message")
    with pytest.raises(OSError, match="not a handshake message") as raised:
        sock.receive()
    assert raised.value.errno == errno.ENOTCONN
