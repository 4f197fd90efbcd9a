"""Handshakes on QUIC sockets when the daemon is absent, overloaded or sends malformed answers."""

import asyncio
import errno
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from handshaked.errors import Status
from handshaked.model import Outcome
from handshaked.shim import (
    HandshakeRefusedError,
    QuicSocketOptions,
    quic_server_handshake,
    quic_server_handshake_async,
)
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.conftest import Issue
from tests.patience import PATIENCE
from tests.quic_socket_peers import (
    in_thread,
    socket_daemon,
)


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue, authority: Authority) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        yield daemon


def blocking(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return quic_server_handshake(sock, options=options)


def awaited(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return asyncio.run(quic_server_handshake_async(sock, options=options))


both_forms = pytest.mark.parametrize("form", [blocking, awaited])
Form = Callable[[socket.socket, QuicSocketOptions], Outcome]


def refusal(form: Form, options: QuicSocketOptions) -> HandshakeRefusedError:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(HandshakeRefusedError) as raised:
        form(ours, options)
    return raised.value


@both_forms
def test_missing_daemon_error_has_path(form: Form, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=tmp_path / "no"))
    assert error.errno == error.outcome.status == errno.ENOENT
    assert str(tmp_path / "no") in str(error)


@both_forms
def test_socket_path_too_long_is_reported(form: Form, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=tmp_path / ("x" * 120)))
    assert error.errno == errno.EIO
    assert "too long" in str(error)


@both_forms
def test_file_that_cannot_be_opened_is_named(form: Form, quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    error = refusal(form, QuicSocketOptions(path=quic_daemon.handshake_socket, psk=tmp_path / "psk"))
    assert error.errno == errno.ENOENT
    assert str(tmp_path / "psk") in str(error)


@both_forms
def test_full_accept_queue_is_a_timeout(form: Form, tmp_path: Path) -> None:
    """The call blocked for as long as the daemon did."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as waiting:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.setblocking(False)
                one.connect(str(tmp_path / "daemon.sock"))
        error = refusal(form, QuicSocketOptions(path=tmp_path / "daemon.sock"))
    assert error.errno == errno.ETIMEDOUT


@both_forms
@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (b"?", errno.EIO),
        (struct.pack("=IHHIIBBxx", 28, 32, 0, 1, 0, 5, 1) + b"\xff" * 8, errno.EIO),
        (b"", errno.ECONNRESET),
    ],
    ids=["malformed message", "malformed attribute", "closed"],
)
def test_malformed_answer_is_an_error(form: Form, tmp_path: Path, packet: bytes, status: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()

        def answer() -> None:
            daemon, _ = listener.accept()
            with daemon:
                daemon.recv(65536)
                daemon.send(packet)

        answering = in_thread(answer)
        assert refusal(form, QuicSocketOptions(path=tmp_path / "daemon.sock")).errno == status
        answering.result(PATIENCE)


def test_descriptors_above_1023_work(quic_daemon: RunningDaemon) -> None:
    """select() does not support them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    try:
        with ExitStack() as others, socket.socket() as one:
            while others.enter_context(one.dup()).fileno() < 1024:
                pass
            error = refusal(blocking, QuicSocketOptions(path=quic_daemon.handshake_socket, registration="web"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.errno == Status.FAILED  # the socket is not a QUIC socket
