"""The demultiplexer: connections a second and what they cost, forwarded throughput, 10,000 flows, the kernel's part.

A connection through the demultiplexer is compared with one to the same server directly, in the same run. Throughput is
that of nginx and curl (Debian 13's), where those can be had.
"""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks._report import report
from handshaked.demux.shared_port import open_shared
from handshaked.shim.listening import DemuxClient
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server, smb_server_on_own_port
from handshaked.testing.smb_server import free_port
from handshaked.wire.demux import Flow
from tests.demux import debian_programs
from tests.demux.clients import Target, connected
from tests.quic.initials import client_hello, crypto, initial

CONNECTIONS = 60
ROUNDS = 7
FLOWS = 10_000
ESTABLISHED = 10  # datagrams of each flow that was accepted
WINDOW = 50  # first datagrams on their way at a time
DATAGRAMS = 20_000
DOWNLOAD = 50_000_000
DOWNLOADS = 5
_WAYS = {"direct": "accept", "accept": "accept", "relay": "relay", "forward": "forward 127.0.0.1:{port}"}


def cpu_seconds(pid: int) -> float:
    """What the process has used of the processor, to the nanosecond: its clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> int:
    """What the process has in memory, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def connections(target: Target, server_name: str, count: int) -> float:
    """Connections a second, some at a time; they are closed when all have been counted."""
    async with connected(target, server_name, "smb"):
        pass
    turns = asyncio.Semaphore(4)
    done = asyncio.Event()

    async def one(rest: list[int]) -> None:
        await turns.acquire()
        async with connected(target, server_name, "smb"):
            turns.release()
            rest.pop()
            if not rest:
                done.set()
            await done.wait()

    rest = list(range(count))
    started = time.perf_counter()
    tasks = [asyncio.create_task(one(rest)) for _ in range(count)]
    await done.wait()
    seconds = time.perf_counter() - started
    await asyncio.gather(*tasks)
    return count / seconds


def measure_connections(directory: Path, daemon: RunningDaemon, authority: Authority) -> None:
    """Full connections of aioquic, directly, accepted, relayed and forwarded, in turns."""
    with RunningDemux(directory, daemon) as demux, smb_server_on_own_port(daemon) as port:
        for way, delivery in _WAYS.items():
            # The server that is forwarded to finds its certificate in that registration too.
            issued = authority.issue(f"{way}.example.com")
            daemon.register(
                way, (issued.certificate, issued.key), alpns=["smb"], server_names=[f"{way}.example.com"],
                deliver=delivery.format(port=port),
            )  # fmt: skip
        rates: dict[str, list[float]] = {way: [] for way in _WAYS}
        used = dict.fromkeys(_WAYS, 0.0)
        with smb_server(daemon, demux, "accept", "relay"):
            for way in list(_WAYS) * ROUNDS:
                target = Target(port if way == "direct" else demux.port, authority.root)
                before = cpu_seconds(demux.pid)
                rates[way].append(asyncio.run(connections(target, f"{way}.example.com", CONNECTIONS)))
                used[way] += cpu_seconds(demux.pid) - before
    for way in ("accept", "relay", "forward"):
        report(f"demux.{way}.connections", median(rates[way]), "1/s", "direct", median(rates["direct"]))
        report(f"demux.{way}.cpu_per_connection", used[way] / CONNECTIONS / ROUNDS * 1e6, "us")


def measure_restart(directory: Path, daemon: RunningDaemon, authority: Authority) -> None:
    """From the start of a demultiplexer whose predecessor was killed to a new connection of a server that stayed."""
    issued = authority.issue("restart.example.com")
    daemon.register("restart", (issued.certificate, issued.key), alpns=["smb"], server_names=["restart.example.com"])

    async def connection(port: int) -> None:
        async with connected(Target(port, authority.root), "restart.example.com", "smb"):
            pass

    place = Path(tempfile.mkdtemp(dir=directory))
    with RunningDemux(place, daemon, activated=True) as demux, smb_server(daemon, demux, "restart"):
        took = []
        for _ in range(5):
            demux.stop(signal.SIGKILL)
            started = time.perf_counter()
            demux.start()
            asyncio.run(connection(demux.port))
            took.append(time.perf_counter() - started)
    report("demux.restart", median(took), "s")


def initials(count: int) -> list[bytes]:
    """First datagrams of as many clients, for ``flows.example.com``."""
    frames = crypto(0, client_hello("flows.example.com", ["smb"]))
    return [initial(frames, dcid=os.urandom(8)) for _ in range(count)]


def clients(count: int) -> list[socket.socket]:
    """As many clients' sockets, at several addresses: each source may have a part of the flows only."""
    found = []
    for number in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind((f"127.0.{1 + number // 1000}.1", 0))
        found.append(sock)
    return found


async def accept_flows(demux: RunningDemux, count: int) -> None:
    """10,000 accepted flows: how fast, what they cost the demultiplexer, before and after."""
    flows: list[socket.socket] = []
    arrived = asyncio.Event()

    def on_flow(_: Flow, sock: socket.socket) -> None:
        flows.append(sock)
        arrived.set()

    client = DemuxClient(("flows",), on_flow, path=demux.socket)
    await client.start()
    datagrams = initials(count)
    # The clients are another process's: this one has as many descriptors as it may for the flows.
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.demux", "clients", str(demux.port), str(count), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert sender.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    memory, cpu, started = resident(demux.pid), cpu_seconds(demux.pid), time.perf_counter()
    for number, datagram in enumerate(datagrams):
        sender.stdin.write(len(datagram).to_bytes(2) + datagram)
        await sender.stdin.drain()
        while len(flows) < number - WINDOW or len(flows) <= number == count - 1:
            arrived.clear()
            await asyncio.wait_for(arrived.wait(), 30)
    seconds, used = time.perf_counter() - started, cpu_seconds(demux.pid) - cpu
    report("demux.accept.dispatch", count / seconds, "1/s")
    report("demux.accept.dispatch_cpu", used / count * 1e6, "us")
    report("demux.accept.memory_per_flow", (resident(demux.pid) - memory) / count, "bytes")
    cpu, started = cpu_seconds(demux.pid), time.perf_counter()
    sender.stdin.write(b"\0\0")
    sender.stdin.close()
    received = 0
    poll = select.epoll()
    by_descriptor = {sock.fileno(): sock for sock in flows}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    while received < ESTABLISHED * count:
        for descriptor, _ in poll.poll(10):
            received += bool(by_descriptor[descriptor].recv(2000))
    seconds, used = time.perf_counter() - started, cpu_seconds(demux.pid) - cpu
    cpu = cpu_seconds(demux.pid)
    await asyncio.sleep(seconds)
    idle = cpu_seconds(demux.pid) - cpu  # it looks once a second for what is to be forgotten
    report("demux.accept.established_cpu", used * 1e6, "us", "as long without a datagram", idle * 1e6)
    report("demux.accept.established_datagrams", received, "datagrams")
    await sender.wait()
    client.close()
    for sock in flows:
        sock.close()


def run_clients(port: int, count: int) -> None:
    """The clients' process: sends what standard input says, each datagram from a socket of its own; at the end a
    few datagrams more from each of them.
    """
    socks = clients(count)
    for sock in socks:
        size = int.from_bytes(sys.stdin.buffer.read(2))
        sock.sendto(sys.stdin.buffer.read(size), ("127.0.0.1", port))
    sys.stdin.buffer.read(2)
    for _ in range(ESTABLISHED):
        for sock in socks:
            sock.sendto(b"\x40 established", ("127.0.0.1", port))


def forward_flows(demux: RunningDemux, backend: socket.socket, count: int) -> None:
    """As many forwarded flows: how fast, and what each takes of memory."""
    datagrams, socks = initials(count), clients(count)
    memory, cpu, started = resident(demux.pid), cpu_seconds(demux.pid), time.perf_counter()
    for sock, datagram in zip(socks, datagrams, strict=True):
        sock.sendto(datagram, ("127.0.0.1", demux.port))
        backend.recv(2000)
    seconds = time.perf_counter() - started
    report("demux.forward.dispatch", count / seconds, "1/s")
    report("demux.forward.dispatch_cpu", (cpu_seconds(demux.pid) - cpu) / count * 1e6, "us")
    flows = demux.metrics()["relays"]  # on a busy machine the first ones have been given up by now
    report("demux.forward.flows", flows, "flows")
    report("demux.forward.memory_per_flow", (resident(demux.pid) - memory) / flows, "bytes")
    cpu = cpu_seconds(demux.pid)
    for _ in range(DATAGRAMS):
        socks[-1].sendto(b"\x40" + bytes(1199), ("127.0.0.1", demux.port))
        backend.recv(2000)
    report("demux.forward.cpu_per_datagram", (cpu_seconds(demux.pid) - cpu) / DATAGRAMS * 1e6, "us")
    for sock in socks:
        sock.close()


def measure_flows(directory: Path, daemon: RunningDaemon, authority: Authority) -> None:
    """10,000 flows of either kind."""
    issued = authority.issue("flows.example.com")
    daemon.register("flows", (issued.certificate, issued.key), alpns=["smb"], server_names=["flows.example.com"])
    options = ("--connected=20000", "--retry-from=1000000", "--log-level=warning")
    with RunningDemux(directory, daemon, options=options) as demux:
        asyncio.run(accept_flows(demux, FLOWS))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as backend:
        backend.bind(("127.0.0.1", 0))
        backend.settimeout(30)
        daemon.ask("unregister", name="flows")
        target = f"forward 127.0.0.1:{backend.getsockname()[1]}"
        daemon.register("flows", alpns=["smb"], server_names=["flows.example.com"], deliver=target)
        with _another(directory, daemon, "--retry-from=1000000", "--log-level=warning") as demux:
            forward_flows(demux, backend, FLOWS)


@contextmanager
def _another(directory: Path, daemon: RunningDaemon, *options: str) -> Iterator[RunningDemux]:
    place = Path(tempfile.mkdtemp(dir=directory))
    with RunningDemux(place, daemon, options=options) as demux:
        yield demux


def measure_throughput(directory: Path, daemon: RunningDaemon, authority: Authority) -> None:
    """A download from nginx by curl, directly and forwarded; the same where nginx sends many datagrams at once."""
    issued, port = authority.issue("web.example.com"), free_port()
    daemon.register("web", alpns=["h3"], server_names=["web.example.com"], deliver=f"forward 127.0.0.1:{port}")
    for gso, name in ((False, "demux.forward"), (True, "demux.forward.gso")):
        debian = debian_programs.prepare()
        try:
            server = debian_programs.nginx(debian, 65534, port, {"web.example.com": issued}, gso=gso)
            with server, _another(directory, daemon) as demux:
                with (debian.outside / "nginx" / "body").open("wb") as file:
                    file.truncate(DOWNLOAD)
                before = cpu_seconds(demux.pid)
                direct, forwarded = [], []
                for _ in range(DOWNLOADS):
                    direct.append(debian_programs.download(debian, "web.example.com", port, authority.root))
                    forwarded.append(debian_programs.download(debian, "web.example.com", demux.port, authority.root))
                used = cpu_seconds(demux.pid) - before
        finally:
            debian.close()
        report(f"{name}.throughput", median(forwarded) * 8e-6, "Mbit/s", "direct", median(direct) * 8e-6)
        report(f"{name}.cpu_per_megabyte", used / DOWNLOADS / DOWNLOAD * 1e9, "ms")


def measure_lookup() -> None:
    """What the kernel takes for a datagram, with many sockets connected on the port: of a flow, and of none."""
    shared = open_shared(("127.0.0.1", free_port()))
    address = shared.getsockname()
    sender, known = clients(2)

    def flow(peer: tuple[str, int]) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", address[1]))  # noqa: S104 - as handshaked.demux.shared_port does it
        sock.connect(peer)
        return sock

    def each(count: int, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - started) / count * 1e6

    own = flow(known.getsockname())
    flows: list[socket.socket] = []
    for target in (0, 1000, 2000, 5000, 10_000):
        while len(flows) < target:
            flows.append(flow((f"127.1.{len(flows) >> 8}.{len(flows) & 255}", 9)))
        of_flow = each(2000, lambda: (known.sendto(b"x" * 1200, address), own.recv(2000)))
        of_none = each(2000, lambda: (sender.sendto(b"x" * 1200, address), shared.recv(2000)))
        report(f"demux.lookup.of_none.{target}", of_none, "us", "of a flow", of_flow)
    for sock in (shared, sender, known, own, *flows):
        sock.close()


def main() -> None:
    """Run all of it, or be its clients."""
    if sys.argv[1:2] == ["clients"]:
        run_clients(int(sys.argv[2]), int(sys.argv[3]))
        return
    measure_lookup()
    with tempfile.TemporaryDirectory(prefix="handshaked-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        authority = Authority(directory)
        with RunningDaemon(directory, log_level="warning") as daemon:
            measure_restart(directory, daemon, authority)
            measure_connections(Path(tempfile.mkdtemp(dir=directory)), daemon, authority)
            measure_flows(directory, daemon, authority)
            if os.geteuid() == 0:
                measure_throughput(directory, daemon, authority)


if __name__ == "__main__":
    main()
