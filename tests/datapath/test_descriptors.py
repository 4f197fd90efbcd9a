"""Attached file descriptors: everything but a QUIC socket is refused, and no descriptor stays open."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handshaked.datapath.emulated import Kind, push_message
from handshaked.errors import Status
from handshaked.model import Level, Role
from handshaked.registry.files import MAX_FILE
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import FakeQuicEndpoint
from handshaked.wire.family import push_crypto, push_start
from handshaked.wire.lookup import push_lookup
from handshaked.wire.messages import CryptoData, Lookup, Start
from tests.conftest import Issue
from tests.handshake_channel import HandshakeChannel, eventually
from tests.lingering import hand_over, lingering_pair
from tests.patience import PATIENCE
from tests.plugins.needs import need
from tests.quic_socket_peers import (
    descriptors_of,
    in_thread,
    left_alone,
    socket_daemon,
    waits,
)

ON_SOCKET = Start(Role.SERVER, timeout=5.0, socket=True)


@pytest.fixture(scope="module")
def quic_daemon(issue: Issue) -> Iterator[RunningDaemon]:
    with socket_daemon() as daemon:
        issued = issue("quic.example.com")
        daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=["quic.example.com"])
        yield daemon


@pytest.fixture
def unchanged(quic_daemon: RunningDaemon) -> Iterator[None]:
    """Check that the worker has the same descriptors after the test as before."""
    need("root")  # the kernel shows the descriptors of a process without core dumps to nobody else
    (worker,) = quic_daemon.worker_pids()
    before = Counter(descriptors_of(worker))

    def opened() -> Counter[str]:
        return Counter(descriptors_of(worker)) - before

    yield
    assert eventually(lambda: not opened()), opened()
    assert quic_daemon.worker_pids() == [worker]


pytestmark = pytest.mark.usefixtures("unchanged")


def refusal(daemon: RunningDaemon, start: Start, descriptors: tuple[int, ...]) -> tuple[int, str]:
    """Return the error for `start` with `descriptors`; check that the connection still works."""
    with HandshakeChannel(daemon.handshake_socket) as channel:
        channel.send(push_start(1, start), descriptors=descriptors)
        error = channel.refusal(1).error
        channel.send(push_lookup(2, Lookup(client_hello=b"x")))
        channel.answer(2)
    return error.status, error.reason


def test_missing_descriptor_is_refused(quic_daemon: RunningDaemon) -> None:
    status, reason = refusal(quic_daemon, ON_SOCKET, ())
    assert status == errno.EINVAL
    assert "0 file descriptors are attached, expected 1" in reason


@pytest.mark.parametrize("count", [2, 4, 5, 253])
def test_too_many_descriptors_are_refused(quic_daemon: RunningDaemon, count: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        status, reason = refusal(quic_daemon, ON_SOCKET, (ours.fileno(),) * count)
    assert status == errno.EINVAL
    assert "attached" in reason


def test_pipe_is_refused(quic_daemon: RunningDaemon) -> None:
    read, write = os.pipe()
    try:
        status, reason = refusal(quic_daemon, ON_SOCKET, (read,))
    finally:
        os.close(read)
        os.close(write)
    assert (status, "not a socket" in reason) == (errno.EINVAL, True)


def outcome(daemon: RunningDaemon, descriptor: int) -> int:
    with HandshakeChannel(daemon.handshake_socket) as channel:
        channel.send(push_start(1, ON_SOCKET), descriptors=(descriptor,))
        return channel.outcome(1).status


def test_listening_socket_is_refused(quic_daemon: RunningDaemon, public_directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(public_directory / "listener"))
        listener.listen()
        assert outcome(quic_daemon, listener.fileno()) == errno.EINVAL


def test_socket_of_another_protocol_is_refused(quic_daemon: RunningDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert outcome(quic_daemon, listener.fileno()) == errno.EOPNOTSUPP


def test_daemons_own_socket_is_refused(quic_daemon: RunningDaemon) -> None:
    with HandshakeChannel(quic_daemon.handshake_socket) as channel:
        channel.send(push_start(1, ON_SOCKET), descriptors=(channel.sock.fileno(),))
        assert channel.outcome(1).status == errno.EINVAL
    # The caller sends the only descriptor of the very connection that it is on.
    with (
        HandshakeChannel(quic_daemon.handshake_socket) as channel,
        HandshakeChannel(quic_daemon.handshake_socket) as other,
    ):
        channel.send(push_start(1, ON_SOCKET), descriptors=(other.sock.fileno(),))
        other.send(push_start(1, ON_SOCKET), descriptors=(channel.sock.fileno(),))
        assert channel.outcome(1).status == other.outcome(1).status == errno.EINVAL


def test_descriptors_with_other_messages_are_closed(quic_daemon: RunningDaemon) -> None:
    read, write = os.pipe()
    with HandshakeChannel(quic_daemon.handshake_socket) as channel:
        channel.send(push_lookup(1, Lookup(client_hello=b"x")), descriptors=(read, write))
        channel.answer(1)
        channel.send(b"nonsense", descriptors=(read, write))
        os.close(read)
        os.close(write)
        assert channel.closed()


def test_file_without_a_socket_is_refused(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    with (tmp_path / "psk").open("w") as file:
        status, _ = refusal(quic_daemon, Start(Role.SERVER, psk_file=True), (file.fileno(),))
    assert status == errno.EINVAL


def test_unusable_files_are_refused(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    start = Start(Role.SERVER, socket=True, certificate_file=True, key_file=True)
    with (
        ours,
        theirs,
        (tmp_path / "empty").open("w+") as file,
        HandshakeChannel(quic_daemon.handshake_socket) as channel,
    ):
        channel.send(push_start(1, start), descriptors=(ours.fileno(), theirs.fileno(), file.fileno()))
        seen = channel.outcome(1)
        assert (seen.status, "not a regular file" in seen.reason) == (errno.ENOKEY, True)


def test_named_pipe_is_refused(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    """Reading from it could block."""
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with ours, theirs, HandshakeChannel(quic_daemon.handshake_socket) as channel:
            channel.send(
                push_start(1, Start(Role.SERVER, socket=True, psk_file=True)), descriptors=(ours.fileno(), fifo)
            )
            seen = channel.outcome(1)
    finally:
        os.close(fifo)
    assert (seen.status, "not a regular file" in seen.reason) == (errno.ENOKEY, True)


def test_long_file_is_refused(quic_daemon: RunningDaemon, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        ours,
        theirs,
        (tmp_path / "long").open("wb+") as file,
        HandshakeChannel(quic_daemon.handshake_socket) as channel,
    ):
        file.truncate(MAX_FILE + 1)
        start = Start(Role.SERVER, socket=True, psk_file=True)
        channel.send(push_start(1, start), descriptors=(ours.fileno(), file.fileno()))
        seen = channel.outcome(1)
    assert (seen.status, str(MAX_FILE) in seen.reason) == (errno.ENOKEY, True)


@pytest.mark.parametrize("count", [1, 5])  # more than the limit: the kernel would close the rest in recvmsg
def test_lingering_socket_does_not_delay_others(quic_daemon: RunningDaemon, count: int) -> None:
    """Closing it waits for its peer to read all data; the daemon's descriptor is the last one."""
    (worker,) = quic_daemon.worker_pids()
    with (
        lingering_pair() as (ours, _),
        HandshakeChannel(quic_daemon.handshake_socket) as channel,
        HandshakeChannel(quic_daemon.handshake_socket) as other,
    ):
        descriptors = (*[0] * (count - 1), ours.fileno())
        hand_over(ours, worker, lambda: channel.send(push_start(1, ON_SOCKET), descriptors=descriptors))
        if count == 1:
            assert channel.outcome(1).status == errno.EOPNOTSUPP
        other.send(push_lookup(1, Lookup(client_hello=b"x")))
        other.answer(1)


def test_emulated_socket_without_answers_is_refused(quic_daemon: RunningDaemon) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        channel.send(push_start(1, ON_SOCKET), descriptors=(ours.fileno(),))
        assert channel.outcome(1).status == Status.FAILED


def test_emulated_socket_with_malformed_answers_is_refused(quic_daemon: RunningDaemon) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        theirs.send(b"?")
        channel.send(push_start(1, ON_SOCKET), descriptors=(ours.fileno(),))
        assert channel.outcome(1).status == Status.FAILED


def test_flooding_emulated_socket_does_not_block_the_daemon(quic_daemon: RunningDaemon) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def talk() -> None:
        with suppress(OSError):
            while True:
                theirs.send(push_message(Kind.READABLE, 0))

    with theirs, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        talking = in_thread(talk)
        with ours:
            channel.send(push_start(1, ON_SOCKET), descriptors=(ours.fileno(),))
        assert channel.outcome(1).status == Status.FAILED
        talking.result(PATIENCE)


def begun(
    endpoint: FakeQuicEndpoint, channel: HandshakeChannel, role: Role = Role.CLIENT, timeout: float = 20.0
) -> None:
    """Start a handshake whose peer does not answer."""
    connection = left_alone(endpoint, role)
    name = "quic.example.com" if role is Role.CLIENT else None
    with connection.agent:
        start = Start(role, timeout=timeout, server_name=name, socket=True)
        channel.send(push_start(1, start), descriptors=(connection.agent.fileno(),))
    assert eventually(lambda: waits(connection))


both_roles = pytest.mark.parametrize("role", list(Role))


@both_roles
def test_vanished_peer_is_a_timeout(quic_daemon: RunningDaemon, role: Role) -> None:
    with FakeQuicEndpoint() as endpoint, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        begun(endpoint, channel, role, timeout=0.5)
        assert channel.outcome(1).status == errno.ETIMEDOUT


@both_roles
def test_closed_socket_is_reported_as_a_lost_peer(quic_daemon: RunningDaemon, role: Role) -> None:
    with HandshakeChannel(quic_daemon.handshake_socket) as channel:
        with FakeQuicEndpoint() as endpoint:
            begun(endpoint, channel, role)
        assert channel.outcome(1).status == errno.ECONNRESET


@both_roles
def test_disconnected_caller_leaves_nothing(quic_daemon: RunningDaemon, role: Role) -> None:
    with FakeQuicEndpoint() as endpoint:
        with HandshakeChannel(quic_daemon.handshake_socket) as channel:
            begun(endpoint, channel, role)
        assert eventually(lambda: quic_daemon.ask("status")["workers"][0]["in_flight"] == 0)


CALLER = """
import sys
from pathlib import Path
from handshaked.shim import quic_client_handshake, quic_server_handshake
from handshaked.shim import QuicSocketOptions

options = QuicSocketOptions(path=Path(sys.argv[3]), timeout=20)
if sys.argv[1] == "CLIENT":
    quic_client_handshake(int(sys.argv[2]), "quic.example.com", options=options)
else:
    quic_server_handshake(int(sys.argv[2]), options=options)
"""


@both_roles
def test_killed_caller_leaves_nothing(quic_daemon: RunningDaemon, role: Role) -> None:
    with FakeQuicEndpoint() as endpoint:
        connection = left_alone(endpoint, role)
        with connection.agent as agent:
            caller = subprocess.Popen(
                [sys.executable, "-c", CALLER, role.name, str(agent.fileno()), str(quic_daemon.handshake_socket)],
                pass_fds=(agent.fileno(),),
            )
        assert eventually(lambda: waits(connection))
        caller.send_signal(signal.SIGKILL)
        caller.wait(PATIENCE)
        assert eventually(lambda: quic_daemon.ask("status")["workers"][0]["in_flight"] == 0)


def test_messages_for_a_handshake_on_a_socket_are_refused(quic_daemon: RunningDaemon) -> None:
    with FakeQuicEndpoint() as endpoint, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        begun(endpoint, channel)
        channel.send(push_crypto(1, CryptoData(Level.INITIAL, b"x")))
        assert "socket" in channel.refusal(1).error.reason
        assert channel.outcome(1).status == errno.EINVAL


def test_many_refusals_leave_nothing(quic_daemon: RunningDaemon) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, HandshakeChannel(quic_daemon.handshake_socket) as channel:
        for sequence in range(1, min(soft, 1024) + 100):
            channel.send(push_start(sequence, ON_SOCKET), descriptors=(ours.fileno(),) * 4)
            channel.refusal(sequence)
