"""Many uids that take all they can get leave enough to others: connections, memory, the way back after a restart."""

import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from handshaked.errors import Status
from handshaked.events import CryptoData
from handshaked.model import Level
from handshaked.system import directories
from handshaked.system.memory import resident_memory
from handshaked.system.process import raise_descriptor_limit
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux
from handshaked.wire.family import push_crypto, push_start
from handshaked.wire.messages import Acknowledged, Done
from tests.conftest import Issue
from tests.control.handshakes import NAME
from tests.handshake_channel import HandshakeChannel, server_start, user
from tests.hostile.honest import (
    HONEST,
    TRUST,
    Attack,
    Honest,
    compare,
    honest_handshakes,
    honest_status,
    measure,
    process,
)
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "public python")]

DEMUX_USER = 3004
FEW = range(4001, 4004)
MANY = range(4001, 4041)
TWENTY = MANY[:20]
UNFINISHED = b"\1\0\xff\xf0" + bytes(30_000)
MEBIBYTE = 1 << 20


@pytest.fixture
def daemon(public_directory: Path, authority: Authority, issue: Issue) -> Iterator[RunningDaemon]:
    """Run a daemon whose registrations the user of the demultiplexer may follow; HONEST may use ``honest``."""
    raise_descriptor_limit()
    (public_directory / TRUST).write_bytes(authority.root.read_bytes())
    issued = issue(NAME)
    with RunningDaemon(public_directory, options=("--no-kernel", f"--demux-user={DEMUX_USER}")) as running:
        running.register(
            "honest", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME], allow_users=[str(HONEST)]
        )
        yield running


@contextmanager
def occupied(path: Path, uids: Iterable[int], each: int) -> Iterator[None]:
    """Hold as many connections to `path` as the daemon gives to `uids`, which ask for `each`."""
    with ExitStack() as stack:
        for uid in uids:
            with user(uid):
                for _ in range(each):
                    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    sock.connect(os.fspath(path))
        yield


def serves(directory: Path, honest: Honest) -> None:
    """AssertionError if an operation of the honest caller fails."""
    with process(HONEST, honest, directory) as caller:
        assert len(measure(caller, 2.0)) >= 1


@pytest.mark.parametrize("uids", [FEW, MANY], ids=["few", "many"])
def test_control_socket_has_room_for_others_and_the_demultiplexer(
    daemon: RunningDaemon, public_directory: Path, uids: Iterable[int]
) -> None:
    """Three uids took all connections: others got none, and the demultiplexer did not come back."""
    with (
        RunningDemux(public_directory, daemon, user=DEMUX_USER) as demux,
        occupied(daemon.control_socket, uids, each=64),
    ):
        serves(public_directory, honest_status)
        demux.stop(signal.SIGKILL)
        demux.start()
        assert demux.metrics()["registry_connected"] == 1
        assert daemon.ask("status")["self_test"] == "ok"


def test_handshake_socket_has_room_for_others(daemon: RunningDaemon, public_directory: Path) -> None:
    with occupied(daemon.handshake_socket, MANY, each=256):
        serves(public_directory, honest_handshakes)
        assert daemon.ask("status")["self_test"] == "ok"


def occupy_control_socket(directory: Path, underway: Callable[[], None]) -> None:
    """Hold all connections to the control socket that twenty users get."""
    occupy(directory, directories.CONTROL_SOCKET, 64, underway)


def occupy_handshake_socket(directory: Path, underway: Callable[[], None]) -> None:
    """Hold all connections to the handshake socket that twenty users get."""
    occupy(directory, directories.HANDSHAKE_SOCKET, 256, underway)


def occupy(directory: Path, name: str, each: int, underway: Callable[[], None]) -> None:
    raise_descriptor_limit()
    with occupied(directory / "run" / name, TWENTY, each):
        honest_status(directory, underway)()  # until all of them are accepted or refused
        underway()
        Event().wait(PATIENCE)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("honest", "attack"), [(honest_status, occupy_control_socket), (honest_handshakes, occupy_handshake_socket)]
)
def test_many_users_delay_nobody_else(hostile_daemon: RunningDaemon, honest: Honest, attack: Attack) -> None:
    compare(hostile_daemon.directory, honest, attack, attacker=0, rounds=3, seconds=0.5).check()


def test_memory_is_limited_and_returned(daemon: RunningDaemon, public_directory: Path) -> None:
    """Each uid made each worker keep 116 MB, for ever."""
    workers = daemon.worker_pids()
    before = {pid: resident_memory(pid) for pid in workers}
    with ExitStack() as stack:
        refused = 0
        for uid in MANY[:12]:
            with user(uid):
                channels = [stack.enter_context(HandshakeChannel(daemon.handshake_socket)) for _ in range(4)]
            for channel in channels:
                refused += keep_all(channel)
        assert refused == 12 * 4
        for pid in workers:
            assert resident_memory(pid) - before[pid] < 256 * MEBIBYTE
        serves(public_directory, honest_handshakes)
    daemon.wait_until(lambda: all(resident_memory(pid) - before[pid] < 16 * MEBIBYTE for pid in workers))


def keep_all(channel: HandshakeChannel) -> int:
    """Begin handshakes that keep as many bytes as they can, until one is refused; return how many were refused."""
    for number in range(1024):
        pieces = [CryptoData(Level.INITIAL, part) for part in (UNFINISHED, bytes(30_000))]
        start = push_start(number, server_start(timeout=60.0))
        channel.send(start, push_crypto(number, pieces[0]), push_crypto(number, pieces[1], ack=True))
        for message in channel.until(number, Acknowledged):
            if isinstance(message, Done):
                assert message.outcome.status == Status.RATE_LIMITED
                return 1
    return 0
