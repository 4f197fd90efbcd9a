"""The shared port: which socket receives a datagram, also while sockets are opened and closed under load."""

import ctypes
import resource
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from handshaked.demux.shared_port import LocalSocket, SharedPort, claim_shared, take_shared
from handshaked.demux.sockets import OwnSockets
from handshaked.errors import RefusedError
from handshaked.testing.ports import free_port
from handshaked.wire.addresses import Address
from tests.patience import PATIENCE, join, run_program

HOSTS = ["127.0.0.1", "::1"]


class Reader:
    """A shared port that a test reads itself; ``got`` has the received datagrams."""

    def __init__(self, address: Address) -> None:
        self.got: list[tuple[bytes, Address]] = []
        self.drained = 0
        self._reads: list[Callable[[], None]] = []
        self.sockets: list[socket.socket] = []
        self.locals: set[LocalSocket] = set()
        first = OwnSockets().shared(address)
        self.port = SharedPort(first, self._watch, self._receive, self._drained)

    def read(self) -> None:
        """Read all received datagrams."""
        for read in list(self._reads):
            read()

    def read_until(self, count: int) -> None:
        """Read until ``got`` has `count` datagrams; loopback may deliver them later, on a busy machine."""
        while len(self.got) < count:
            ready, _, _ = select.select(self.sockets, [], [], PATIENCE)
            assert ready, f"{len(self.got)} of {count} datagrams arrived"
            self.read()

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()

    def _watch(self, sock: socket.socket, read: Callable[[], None]) -> None:
        self.sockets.append(sock)
        self._reads.append(read)

    def _receive(self, local: LocalSocket, datagram: bytes, peer: Address, _mark: int) -> None:
        self.locals.add(local)
        self.got.append((datagram, peer))

    def _drained(self, _: LocalSocket) -> None:
        self.drained += 1


def any_address(host: str) -> Address:
    """Return the wildcard address of the family of `host` with a free port (port 0 might return a shared one)."""
    return ("::", free_port(), 0, 0) if ":" in host else ("0.0.0.0", free_port())  # noqa: S104 - only within the test


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    """Return a loopback address."""
    return str(request.param)


@pytest.fixture
def shared(host: str) -> Iterator[Reader]:
    """Yield a port shared on the wildcard address."""
    reader = Reader(any_address(host))
    yield reader
    reader.close()


@pytest.fixture
def client(host: str) -> Iterator[socket.socket]:
    """Yield a client's socket."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock


def test_first_datagram_to_an_address_opens_its_socket(shared: Reader, client: socket.socket, host: str) -> None:
    for count in range(3):
        client.sendto(b"hello", (host, shared.port.address[1]))
        shared.read_until(count + 1)
        assert shared.got == [(b"hello", client.getsockname())] * (count + 1)
        assert len(shared.sockets) == 2
    (local,) = shared.locals
    local.send(b"answer", client.getsockname())
    assert client.recvfrom(100) == (b"answer", local.address)
    assert local.address[0] == host
    assert shared.drained


def test_flow_receives_only_its_peer(shared: Reader, client: socket.socket, host: str) -> None:
    address = (host, shared.port.address[1])
    client.sendto(b"first", address)
    shared.read_until(1)
    (local,) = shared.locals
    flow = local.open_flow(client.getsockname())
    assert flow is not None
    with flow, socket.socket(client.family, socket.SOCK_DGRAM) as other:
        client.sendto(b"mine", address)
        other.sendto(b"others", address)
        shared.read_until(2)
        assert flow.recv(100) == b"mine"
        assert shared.got[-1][0] == b"others"
        flow.send(b"answer")
        assert client.recvfrom(100)[0] == b"answer"


def test_disconnected_flow_receives_nothing(shared: Reader, client: socket.socket, host: str) -> None:
    address = (host, shared.port.address[1])
    client.sendto(b"first", address)
    shared.read_until(1)
    (local,) = shared.locals
    flow = local.open_flow(("::1", 9) if ":" in host else ("127.0.0.1", 9))
    assert flow is not None
    with flow:
        _disconnect(flow)
        for _ in range(10):
            client.sendto(b"to the shared port", address)
        shared.read_until(11)
        with pytest.raises(BlockingIOError):
            flow.recv(100)


@pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)  # loopback has only one IPv6 address
def test_no_flow_if_the_source_address_would_differ(shared: Reader, host: str) -> None:
    local = shared.port.local(("127.0.0.2", shared.port.address[1]))
    assert local is not None
    assert local.open_flow(("127.0.0.1", 9)) is None


def test_open_flow_without_descriptors_returns_none(shared: Reader, host: str) -> None:
    local = shared.port.local((host, *shared.port.address[1:]))
    assert local is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert local.open_flow((host, 9)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_failure_to_listen_is_logged_once(
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
    shared.read_until(1)
    assert shared.got == [(b"again", client.getsockname())]


def test_port_is_at_the_addresses_of_this_machine(shared: Reader, host: str) -> None:
    """Connections that would be forwarded to the port itself are refused by this."""

    def address(host: str, port: int = shared.port.address[1]) -> Address:
        return (host, port, 0, 0) if ":" in host else (host, port)

    other_host, other_family = ("2001:db8::1", "127.0.0.1") if ":" in host else ("192.0.2.1", "::1")
    assert shared.port.is_at(address(host))
    assert not shared.port.is_at(address(other_host))
    assert not shared.port.is_at(address(other_family))
    assert not shared.port.is_at(address(host, shared.port.address[1] ^ 1))


def test_dual_stack_socket_is_refused() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as dual:
        dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        dual.bind(any_address("::1"))
        with pytest.raises(RefusedError, match="BindIPv6Only=ipv6-only"):
            take_shared(dual)
    with OwnSockets().shared(any_address("::1")) as alone:
        assert take_shared(alone) is alone


_TWO_LINKS = """
import socket
from pyroute2 import IPRoute
from tests.demux.test_shared_port import Reader, any_address
from tests.handshake_channel import eventually
with IPRoute() as ip:
    ip.link("add", ifname="one", kind="veth", peer={"ifname": "two"})
    scopes = sorted(ip.link_lookup(ifname=name)[0] for name in ("one", "two"))
    ip.link("set", index=1, state="up")  # lo, which carries datagrams to own addresses
    for index in scopes:
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="fe80::1", prefixlen=64, flags=2)  # IFA_F_NODAD
    def routes():  # added once the links are up; until then a datagram to fe80::1 leaves through the link and is lost
        local = ip.get_routes(family=socket.AF_INET6, table=255)  # RT_TABLE_LOCAL
        return sum(route.get_attr("RTA_DST") == "fe80::1" for route in local)
    assert eventually(lambda: routes() == 2), "the addresses never became usable"
shared = Reader(any_address("::"))
for count, scope in enumerate(scopes * 2, 1):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", ("fe80::1", shared.port.address[1], 0, scope))
    shared.read_until(count)
print(len(shared.got), sorted(local.address[3] for local in shared.locals) == scopes)
"""


@pytest.mark.needs("root")
def test_link_local_addresses_of_interfaces_are_distinguished() -> None:
    run = run_program("unshare", "--net", sys.executable, "-c", _TWO_LINKS, check=False)
    assert run.stdout == "4 True\n", run.stderr


class Senders:
    """Threads that send `count` datagrams each to `address`, from ports of their own, as fast as ``room`` allows."""

    def __init__(self, host: str, address: tuple[str, int], count: int, threads: int = 2) -> None:
        self.room = threading.Semaphore(500)
        self.sent: Counter[Address] = Counter()
        self.total = count * threads
        self._host, self._address, self._count = host, address, count
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.room.release(self.total)
        join(*self._threads)

    def _send(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((self._host, 0))
            for _ in range(self._count):
                self.room.acquire()
                sock.sendto(b"x", self._address)
                self.sent[sock.getsockname()] += 1


def test_no_datagram_is_lost_or_misdelivered_while_flows_open(shared: Reader, client: socket.socket, host: str) -> None:
    """Flows of other peers are opened continuously while two threads send to the shared port."""
    address = (host, shared.port.address[1])
    client.sendto(b"first", address)
    shared.read_until(1)
    (local,) = shared.locals
    local.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    shared.got.clear()
    opened = 0
    with Senders(host, address, 20_000) as senders:
        while (seen := len(shared.got)) < senders.total:
            flow = local.open_flow((host, 1 + opened % 1000))
            assert flow is not None
            opened += 1
            with flow:
                shared.read()
                with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                    flow.recv(100)
            if len(shared.got) > seen:
                senders.room.release(len(shared.got) - seen)
    assert opened > 100
    assert Counter(peer for _, peer in shared.got) == senders.sent


def _disconnect(sock: socket.socket) -> None:
    """Call connect(2) with AF_UNSPEC, as a malicious application could; Python cannot express that address."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), ctypes.create_string_buffer(16), 16) == 0


def test_no_socket_of_the_port_sends_fragments(host: str) -> None:
    """Neither an inherited one, nor that of a flow: paths' MTUs are probed with their datagrams."""
    level, option = (socket.IPPROTO_IPV6, 23) if ":" in host else (socket.IPPROTO_IP, 10)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as inherited:
        if ":" in host:
            inherited.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        inherited.bind((host, 0))
        flow = LocalSocket(take_shared(inherited), lambda *_: None, lambda _: None).open_flow(inherited.getsockname())
        assert flow is not None
        with flow, claim_shared((host, free_port(), 0, 0) if ":" in host else (host, free_port())) as claimed:
            assert [sock.getsockopt(level, option) for sock in (inherited, flow, claimed)] == [3, 3, 3]
