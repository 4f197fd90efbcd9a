"""The binder: a demultiplexer without rights gets sockets at its shared ports, at no others, and never waits long."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest

from handshaked.demux.binder_client import BinderSockets
from handshaked.demux.binder_packets import ANSWER_SIZE, MAX_SOCKETS, Kind, Request, pull_answer, push_request
from handshaked.demux.shared_port import LocalSocket, SharedPort
from handshaked.demux.sockets import OwnSockets
from handshaked.system.connecting import connect
from handshaked.testing.ports import free_port
from handshaked.testing.processes import ending
from handshaked.wire.addresses import Address
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors, push_descriptors
from tests.handshake_channel import eventually
from tests.patience import PATIENCE
from tests.signal_storm import signal_storm

HOSTS = ["127.0.0.1", "::1"]
STRANGER = 2999
AS_STRANGER = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    print(len(sock.recv(100)))
"""


# An option that no kernel has stands for one that this kernel does not have yet.
BEFORE_LINUX_5_14 = """
from handshaked.demux import binder, main
binder._SO_NETNS_COOKIE = 0x7fff
main.main()
"""


@contextmanager
def binder_at(
    path: Path, program: tuple[str, ...] = ("-m", "handshaked.demux.main"), log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the binder at `path`, and yield its process when it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(path.with_name("notify")))
        notices.settimeout(PATIENCE)
        command = [sys.executable, *program, f"--serve-sockets={path}"]
        environment = {**os.environ, "NOTIFY_SOCKET": notices.getsockname()}
        errors = nullcontext() if log is None else log.open("wb")
        with errors as file, ending(subprocess.Popen(command, env=environment, stderr=file)) as process:
            assert notices.recv(100) == b"READY=1"
            yield process
            process.send_signal(signal.SIGCONT)
            process.terminate()
    path.with_name("notify").unlink()


@pytest.fixture
def path(public_directory: Path) -> Path:
    return public_directory / "binder.sock"


@pytest.fixture
def binder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with binder_at(path) as process:
        yield process


@pytest.fixture(params=HOSTS)
def held(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Return the shared socket of a port at the wildcard address."""
    host = request.param
    address: Address = ("::", free_port(), 0, 0) if ":" in host else ("0.0.0.0", free_port())  # noqa: S104 - in a test
    with OwnSockets().shared(address) as sock:
        yield sock


@pytest.fixture
def sockets(binder: object, path: Path, held: socket.socket) -> Iterator[BinderSockets]:
    """Return sockets of the binder, for which they wait as long as it takes on a busy machine."""
    with closing(BinderSockets(path, [held], PATIENCE)) as made:
        made.fill(PATIENCE)
        yield made


@pytest.fixture
def hasty(binder: object, path: Path, held: socket.socket) -> Iterator[BinderSockets]:
    """Return sockets of the binder, for which they wait as briefly as in the demultiplexer."""
    with closing(BinderSockets(path, [held])) as made:
        made.fill(PATIENCE)
        yield made


def loopback(held: socket.socket, port: int) -> Address:
    return ("::1", port, 0, 0) if held.family == socket.AF_INET6 else ("127.0.0.1", port)


def received(sock: socket.socket) -> bytes:
    assert select.select([sock], [], [], PATIENCE)[0]
    return sock.recv(100)


def test_flows_get_their_own_sockets_and_others_the_shared_one(sockets: BinderSockets, held: socket.socket) -> None:
    got: list[bytes] = []
    watched: list[socket.socket] = []
    port = SharedPort(
        held, lambda sock, _: watched.append(sock), lambda *found: got.append(found[1]), lambda _: None, sockets
    )
    address = loopback(held, held.getsockname()[1])
    local = port.local(address)
    assert local is not None
    with OwnSockets().unbound(held.family) as client, OwnSockets().unbound(held.family) as other:
        client.connect(address)
        other.connect(address)
        flow = local.open_flow(client.getsockname())
        assert flow is not None
        with flow, local.socket:
            for number in range(3):
                client.send(b"of the flow %d" % number)
                assert received(flow) == b"of the flow %d" % number
            other.send(b"of a stranger")
            assert received(local.socket) == b"of a stranger", "sockets in stock receive nothing"
            flow.send(b"answer")
            assert received(client) == b"answer"
            assert client.getpeername()[:2] == flow.getsockname()[:2]
    assert sockets.failures == 0


def test_sockets_in_stock_do_not_receive_what_is_for_new_local_addresses(
    sockets: BinderSockets, held: socket.socket
) -> None:
    with OwnSockets().unbound(held.family) as client:
        client.sendto(b"first", loopback(held, held.getsockname()[1]))
        assert received(held) == b"first"


def test_stock_is_filled_in_batches(sockets: BinderSockets, held: socket.socket) -> None:
    port = held.getsockname()[1]
    flows = [sockets.for_flow(held.family, port) for _ in range(5 * MAX_SOCKETS)]
    assert {flow.getsockname()[1] for flow in flows} == {port}
    for flow in flows:
        flow.close()
    with sockets.unbound(held.family) as unbound:
        assert unbound.getsockname()[1] == 0
    assert sockets.failures == 0


def asked(
    path: Path, held: list[socket.socket], request: Request, shown_before: list[socket.socket] | None = None
) -> tuple[int, int]:
    """Return the number of sockets and the errno in the answer to `request` of who holds the sockets `held`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        connect(channel, path)
        channel.settimeout(PATIENCE)
        show = push_request(Request(Kind.SHOW, 0, ("0.0.0.0", 0)))  # noqa: S104 - not bound
        for sockets in (shown_before or [], held):
            channel.sendmsg([show], push_descriptors(sock.fileno() for sock in sockets))
            assert pull_answer(channel.recv(ANSWER_SIZE))[1] is None
        channel.send(push_request(request))
        packet, control, _, _ = channel.recvmsg(ANSWER_SIZE, CONTROL_SPACE)
        descriptors = pull_descriptors(control)
        close_all(descriptors)
        _, error = pull_answer(packet)
        return len(descriptors), 0 if error is None else error.errno or -1


@pytest.mark.parametrize("kind", [Kind.FLOW, Kind.SHARED])
def test_only_ports_whose_sockets_are_held_are_bound(binder: object, path: Path, kind: Kind) -> None:
    mine, other = free_port(), free_port()
    with (
        OwnSockets().shared(("0.0.0.0", mine)) as held,  # noqa: S104 - in a test
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
    ):
        stream.bind(("0.0.0.0", other))  # noqa: S104 - in a test
        assert asked(path, [held], Request(kind, 1, ("127.0.0.1", mine))) == (1, 0)
        for port in (other, 0):
            assert asked(path, [held, stream], Request(kind, 1, ("127.0.0.1", port))) == (0, 1)
        assert asked(path, [held], Request(kind, 1, ("::1", mine, 0, 0))) == (0, 1)


def test_shared_socket_is_bound_to_the_held_address_only(binder: object, path: Path) -> None:
    port = free_port()
    with OwnSockets().shared(("127.0.0.1", port)) as held:
        assert asked(path, [held], Request(Kind.SHARED, 1, ("127.0.0.1", port))) == (1, 0)
        assert asked(path, [held], Request(Kind.SHARED, 1, ("127.0.0.2", port))) == (0, 1)


def test_only_the_sockets_shown_last_count(binder: object, path: Path) -> None:
    """Otherwise a demultiplexer could let the binder remember ever more addresses."""
    before, now = free_port(), free_port()
    with OwnSockets().shared(("127.0.0.1", before)) as first, OwnSockets().shared(("127.0.0.1", now)) as second:
        for port, answer in ((before, (0, 1)), (now, (1, 0))):
            assert asked(path, [second], Request(Kind.SHARED, 1, ("127.0.0.1", port)), [first]) == answer


def test_without_comparison_of_networks_nothing_is_bound(path: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    reason = "this kernel cannot tell network namespaces apart (SO_NETNS_COOKIE, Linux 5.14)"
    with OwnSockets().shared(("127.0.0.1", port)) as held, binder_at(path, ("-c", BEFORE_LINUX_5_14), log):
        for kind in (Kind.FLOW, Kind.SHARED):
            assert asked(path, [held], Request(kind, 1, ("127.0.0.1", port))) == (0, 1)
    assert f"sockets of shared ports are refused: {reason}" in log.read_text()
    assert f"127.0.0.1:{port} is refused: {reason}" in log.read_text()


def test_refused_requests_do_not_fill_the_log(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    refused = push_request(Request(Kind.FLOW, 1, ("127.0.0.1", 1)))
    with binder_at(path, log=log), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        connect(channel, path)
        channel.settimeout(PATIENCE)
        for _ in range(500):
            channel.send(refused)
            assert pull_answer(channel.recv(ANSWER_SIZE))[1] is not None
    written = log.read_text()
    assert 20 <= written.count("127.0.0.1:1 is refused") < 500
    assert "more lines caused by the demultiplexer were dropped" in written


@pytest.mark.needs("root")
def test_other_users_are_refused(binder: object, path: Path) -> None:
    path.chmod(0o666)
    command = [sys.executable, "-c", AS_STRANGER, str(path), str(STRANGER)]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True).stdout == b"0\n"


@pytest.mark.parametrize(
    "packet",
    [b"x", bytes(28), bytes(29), push_request(Request(Kind.FLOW, 1, ("::1", 1, 0, 0)))[:-1]],
    ids=["one byte", "no IP version", "too long", "too short"],
)
def test_malformed_request_ends_only_its_connection(sockets: BinderSockets, path: Path, packet: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        connect(channel, path)
        channel.settimeout(PATIENCE)
        channel.send(packet)
        assert channel.recv(100) == b""
    for _ in range(2 * MAX_SOCKETS):
        sockets.unbound(socket.AF_INET).close()


def exhausted(sockets: BinderSockets, held: socket.socket) -> int:
    """Take sockets of flows until there are none; return how many there were."""
    for count in range(3 * MAX_SOCKETS):
        try:
            sockets.for_flow(held.family, held.getsockname()[1]).close()
        except OSError:
            return count
    raise AssertionError("a stopped binder has opened sockets")


def test_hanging_binder_is_waited_for_once(
    binder: subprocess.Popen[bytes], hasty: BinderSockets, held: socket.socket
) -> None:
    sockets = hasty
    binder.send_signal(signal.SIGSTOP)
    waits = sockets.waits
    assert exhausted(sockets, held) <= 2 * MAX_SOCKETS
    local = LocalSocket(held, lambda *_: None, lambda _: None, sockets)
    for _ in range(100):
        assert local.open_flow(loopback(held, 9)) is None
    assert sockets.waits == waits + 1
    assert sockets.failures == 101
    binder.send_signal(signal.SIGCONT)
    sockets.fill(PATIENCE)
    assert opens_a_flow(sockets, held)


def opens_a_flow(sockets: BinderSockets, held: socket.socket) -> bool:
    try:
        sockets.for_flow(held.family, held.getsockname()[1]).close()
    except OSError:
        return False
    return True


def test_late_shared_socket_does_not_swallow_datagrams(
    binder: subprocess.Popen[bytes], hasty: BinderSockets, held: socket.socket
) -> None:
    sockets = hasty
    address = loopback(held, held.getsockname()[1])
    binder.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match="does not answer"):
        sockets.shared(address)
    binder.send_signal(signal.SIGCONT)
    sockets.fill(PATIENCE)  # answered after the request for the shared socket
    sockets.refresh()
    with OwnSockets().unbound(held.family) as client:
        client.sendto(b"hello", address)
        assert received(held) == b"hello"


def test_killed_binder_is_replaced(path: Path, held: socket.socket) -> None:
    with closing(BinderSockets(path, [held])) as sockets:
        with binder_at(path) as first:
            sockets.fill(PATIENCE)
            first.kill()
            first.wait(PATIENCE)
            assert exhausted(sockets, held) >= MAX_SOCKETS, "sockets in stock stay usable"
        with binder_at(path):
            assert eventually(lambda: opens_a_flow(sockets, held))


def test_more_signals_do_not_kill_a_binder_that_ends(binder: subprocess.Popen[bytes]) -> None:
    with signal_storm(binder.pid, signal.SIGTERM, signal.SIGINT):
        assert binder.wait(PATIENCE) == 0
