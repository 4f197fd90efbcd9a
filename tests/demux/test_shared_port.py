"""The kernel's part: which socket gets a datagram, while sockets come and go under load."""

import ctypes
import resource
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from handshaked.demux.shared_port import LocalSocket, SharedPort, open_shared, take_shared
from handshaked.errors import RefusedError
from handshaked.testing.smb_server import free_port
from handshaked.wire.addresses import Address
from tests.patience import join, run_program

HOSTS = ["127.0.0.1", "::1"]


class Reader:
    """A shared port that is read by hand; what came is in ``got``."""

    def __init__(self, address: Address) -> None:
        self.got: list[tuple[bytes, Address]] = []
        self.drained = 0
        self._reads: list[Callable[[], None]] = []
        self.sockets: list[socket.socket] = []
        self.locals: set[LocalSocket] = set()
        first = open_shared(address)
        self.port = SharedPort(first, self._watch, self._receive, self._drained)

    def read(self) -> None:
        """Read everything there is."""
        for read in list(self._reads):
            read()

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()

    def _watch(self, sock: socket.socket, read: Callable[[], None]) -> None:
        self.sockets.append(sock)
        self._reads.append(read)

    def _receive(self, local: LocalSocket, datagram: bytes, peer: Address) -> None:
        self.locals.add(local)
        self.got.append((datagram, peer))

    def _drained(self, _: LocalSocket) -> None:
        self.drained += 1


def any_address(host: str) -> Address:
    """Any address of the family of `host`, and a port that is free (0 might give one that others share)."""
    return ("::", free_port(host), 0, 0) if ":" in host else ("0.0.0.0", free_port(host))  # noqa: S104 - within the test


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """A loopback address."""
    return str(request.param)


@pytest.fixture
def shared(host: str) -> Iterator[Reader]:
    """A port shared at any address."""
    reader = Reader(any_address(host))
    yield reader
    reader.close()


@pytest.fixture
def client(host: str) -> Iterator[socket.socket]:
    """A client's socket."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock


def test_each_address_gets_a_socket_with_its_first_datagram(shared: Reader, client: socket.socket, host: str) -> None:
    for count in range(3):
        client.sendto(b"hello", (host, shared.port.address[1]))
        shared.read()
        assert shared.got == [(b"hello", client.getsockname())] * (count + 1)
        assert len(shared.sockets) == 2
    (local,) = shared.locals
    local.send(b"answer", client.getsockname())
    assert client.recvfrom(100) == (b"answer", local.address)
    assert local.address[0] == host
    assert shared.drained


def test_a_flow_gets_its_peer_and_nobody_else(shared: Reader, client: socket.socket, host: str) -> None:
    address = (host, shared.port.address[1])
    client.sendto(b"first", address)
    shared.read()
    (local,) = shared.locals
    flow = local.open_flow(client.getsockname())
    assert flow is not None
    with flow, socket.socket(client.family, socket.SOCK_DGRAM) as other:
        client.sendto(b"mine", address)
        other.sendto(b"others", address)
        shared.read()
        assert flow.recv(100) == b"mine"
        assert shared.got[-1][0] == b"others"
        flow.send(b"answer")
        assert client.recvfrom(100)[0] == b"answer"


def test_a_flow_that_is_disconnected_hears_nothing_of_others(shared: Reader, client: socket.socket, host: str) -> None:
    address = (host, shared.port.address[1])
    client.sendto(b"first", address)
    shared.read()
    (local,) = shared.locals
    flow = local.open_flow(("::1", 9) if ":" in host else ("127.0.0.1", 9))
    assert flow is not None
    with flow:
        _disconnect(flow)
        for _ in range(10):
            client.sendto(b"still ours", address)
        shared.read()
        assert len(shared.got) == 11
        with pytest.raises(BlockingIOError):
            flow.recv(100)


@pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)  # the loopback has one IPv6 address
def test_where_the_system_would_answer_from_elsewhere_there_is_no_flow(shared: Reader, host: str) -> None:
    local = shared.port.local(("127.0.0.2", shared.port.address[1]))
    assert local is not None
    assert local.open_flow(("127.0.0.1", 9)) is None


def test_without_descriptors_there_was_an_exception_for_each_client(shared: Reader, host: str) -> None:
    local = shared.port.local((host, *shared.port.address[1:]))
    assert local is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert local.open_flow((host, 9)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_each_datagram_was_a_log_line_where_no_socket_could_be_had(
    shared: Reader, client: socket.socket, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(3):
        client.sendto(b"hello", (host, shared.port.address[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        shared.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    client.sendto(b"again", (host, shared.port.address[1]))
    shared.read()
    assert shared.got == [(b"again", client.getsockname())]


def test_of_an_inherited_socket_that_takes_ipv4_as_ipv6_every_datagram_was_dropped() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as dual:
        dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        dual.bind(any_address("::1"))
        with pytest.raises(RefusedError, match="BindIPv6Only=ipv6-only"):
            take_shared(dual)
    with open_shared(any_address("::1")) as alone:
        assert take_shared(alone) is alone


_TWO_LINKS = """
import socket
from pyroute2 import IPRoute
from tests.demux.test_shared_port import Reader, any_address
with IPRoute() as ip:
    ip.link("add", ifname="one", kind="veth", peer={"ifname": "two"})
    scopes = sorted(ip.link_lookup(ifname=name)[0] for name in ("one", "two"))
    ip.link("set", index=1, state="up")  # lo, which what is sent to oneself comes by
    for index in scopes:
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="fe80::1", prefixlen=64, flags=2)  # without looking for duplicates
shared = Reader(any_address("::"))
for scope in scopes * 2:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", ("fe80::1", shared.port.address[1], 0, scope))
    shared.read()
print(len(shared.got), sorted(local.address[3] for local in shared.locals) == scopes)
"""


@pytest.mark.needs("root")
def test_the_same_link_local_address_of_two_interfaces_was_taken_for_one() -> None:
    run = run_program("unshare", "--net", sys.executable, "-c", _TWO_LINKS, check=False)
    assert run.stdout == "4 True\n", run.stderr


def test_under_load_every_datagram_reaches_the_shared_socket_or_its_own_flow(shared: Reader, host: str) -> None:
    """Sockets are opened as fast as can be, while two threads send: nothing may end up in a flow of another."""
    address = (host, shared.port.address[1])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    per_sender = 20_000
    with socket.socket(family, socket.SOCK_DGRAM) as first:
        first.sendto(b"first", address)
        shared.read()
    (local,) = shared.locals
    local.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    sent: Counter[Address] = Counter()
    senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
    room = threading.Semaphore(500)

    def send(sock: socket.socket) -> None:
        sock.bind((host, 0))
        for _ in range(per_sender):
            room.acquire()
            sock.sendto(b"x", address)
            sent[sock.getsockname()] += 1

    threads = [threading.Thread(target=send, args=(sock,), daemon=True) for sock in senders]
    for thread in threads:
        thread.start()
    strays = opened = 0
    shared.got.clear()
    seen = 0
    while len(shared.got) < 2 * per_sender:
        flow = local.open_flow(("::1", 1 + opened % 1000) if ":" in host else ("127.0.0.1", 1 + opened % 1000))
        assert flow is not None
        with closing(flow):
            opened += 1
            shared.read()
            for _ in range(len(shared.got) - seen):
                room.release()
            seen = len(shared.got)
            try:
                flow.recv(100)
                strays += 1
            except (BlockingIOError, ConnectionRefusedError):
                pass
        if strays:
            break
    for _ in range(2 * per_sender):
        room.release()
    for thread in threads:
        join(thread)
    for sock in senders:
        sock.close()
    assert strays == 0
    assert opened > 100
    assert Counter(peer for _, peer in shared.got) == sent


def _disconnect(sock: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, as an application can that means harm; Python's connect knows no such address."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), ctypes.create_string_buffer(16), 16) == 0
