"""The demultiplexer with 10,000 flows: rate, CPU time and memory; the socket lookup of the kernel."""

import asyncio
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

from benchmarks._measure import CpuMeter, report, resident
from handshaked.demux.sockets import OwnSockets
from handshaked.shim.listening import DemuxClient
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux
from handshaked.testing.ports import free_port
from handshaked.wire.demux import Flow
from tests.quic.initials import client_hello, crypto, initial
from tests.run_name import public_temporary_directory

FLOWS = 10_000
ESTABLISHED = 10  # datagrams sent on each accepted flow
WINDOW = 50  # first datagrams in flight
DATAGRAMS = 20_000
LOOKUPS = 2000
CONNECTED = (0, 1000, 2000, 5000, 10_000)
PATIENCE = 30.0


def initials(count: int) -> list[bytes]:
    """Return the first datagrams of `count` clients of ``flows.example.com``."""
    frames = crypto(0, client_hello("flows.example.com", ["smb"]))
    return [initial(frames, dcid=os.urandom(8)) for _ in range(count)]


def clients(count: int, stack: ExitStack) -> list[socket.socket]:
    """Open the sockets of `count` clients, at several addresses because the flows of each source are limited."""
    found = []
    for number in range(count):
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        sock.bind((f"127.0.{1 + number // 1000}.1", 0))
        found.append(sock)
    return found


@asynccontextmanager
async def client_process(port: int, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the clients in another process, because this one needs its descriptors for the flows."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.demux_flows", "clients", str(port), str(count), stdin=subprocess.PIPE
    )
    try:
        yield process
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def run_clients(port: int, count: int) -> None:
    """Send the datagrams from standard input, each from its own socket, then ``ESTABLISHED`` more from every socket."""
    with ExitStack() as stack:
        socks = clients(count, stack)
        for sock in socks:
            size = int.from_bytes(sys.stdin.buffer.read(2))
            sock.sendto(sys.stdin.buffer.read(size), ("127.0.0.1", port))
        if len(sys.stdin.buffer.read(2)) < 2:
            return  # the benchmark has failed
        for _ in range(ESTABLISHED):
            for sock in socks:
                sock.sendto(b"\x40 established", ("127.0.0.1", port))


async def measure_accepted(demux: RunningDemux, count: int) -> None:
    """Measure `count` accepted flows: their rate, and their cost to the demultiplexer before and after acceptance."""
    with ExitStack() as stack:
        flows: list[socket.socket] = []
        arrived = asyncio.Event()

        def on_flow(_: Flow, sock: socket.socket) -> None:
            flows.append(stack.enter_context(sock))
            arrived.set()

        client = DemuxClient(("flows",), on_flow, path=demux.socket)
        await client.start()
        stack.callback(client.close)
        async with client_process(demux.port, count) as sender:
            assert sender.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
            memory, meter = resident(demux.pid), CpuMeter(demux.pid)
            for number, datagram in enumerate(initials(count)):
                sender.stdin.write(len(datagram).to_bytes(2) + datagram)
                await sender.stdin.drain()
                while len(flows) < number - WINDOW or len(flows) <= number == count - 1:
                    arrived.clear()
                    async with asyncio.timeout(PATIENCE):
                        await arrived.wait()
            report("demux.accept.dispatch", count / meter.seconds, "1/s")
            report("demux.accept.dispatch_cpu", meter.cpu / count * 1e6, "us")
            report("demux.accept.memory_per_flow", (resident(demux.pid) - memory) / count, "bytes")
            sender.stdin.write(b"\0\0")
            sender.stdin.close()
            await measure_established(demux, flows)


async def measure_established(demux: RunningDemux, flows: list[socket.socket]) -> None:
    """Measure the demultiplexer's CPU time while `flows` receive datagrams, compared with the same time without."""
    meter = CpuMeter(demux.pid)
    received = 0
    by_descriptor = {sock.fileno(): sock for sock in flows}
    with select.epoll() as poll:
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        while received < ESTABLISHED * len(flows):
            ready = poll.poll(PATIENCE)
            if not ready:
                raise RuntimeError(f"only {received} of {ESTABLISHED * len(flows)} datagrams arrived")
            for descriptor, _ in ready:
                received += bool(by_descriptor[descriptor].recv(2000))
    seconds, used = meter.seconds, meter.cpu
    idle = CpuMeter(demux.pid)
    await asyncio.sleep(seconds)
    report("demux.accept.established_cpu", used * 1e6, "us", "as long without a datagram", idle.cpu * 1e6)
    report("demux.accept.established_datagrams", received, "datagrams")


def measure_forwarded(demux: RunningDemux, backend: socket.socket, count: int) -> None:
    """Measure `count` forwarded flows: their rate and memory, and the cost of a datagram."""
    with ExitStack() as stack:
        datagrams, socks = initials(count), clients(count, stack)
        memory, meter = resident(demux.pid), CpuMeter(demux.pid)
        for sock, datagram in zip(socks, datagrams, strict=True):
            sock.sendto(datagram, ("127.0.0.1", demux.port))
            backend.recv(2000)
        report("demux.forward.dispatch", count / meter.seconds, "1/s")
        report("demux.forward.dispatch_cpu", meter.cpu / count * 1e6, "us")
        flows = demux.metrics()["relays"]  # on a busy machine the first ones have expired by now
        report("demux.forward.flows", flows, "flows")
        report("demux.forward.memory_per_flow", (resident(demux.pid) - memory) / flows, "bytes")
        meter = CpuMeter(demux.pid)
        for _ in range(DATAGRAMS):
            socks[-1].sendto(b"\x40" + bytes(1199), ("127.0.0.1", demux.port))
            backend.recv(2000)
        report("demux.forward.cpu_per_datagram", meter.cpu / DATAGRAMS * 1e6, "us")


def measure_flows() -> None:
    """Measure accepted and forwarded flows."""
    options = ("--connected=20000", "--retry-from=1000000", "--log-level=warning")
    with public_temporary_directory() as directory, RunningDaemon(directory, log_level="warning") as daemon:
        issued = Authority(directory).issue("flows.example.com")
        daemon.register("flows", (issued.certificate, issued.key), alpns=["smb"], server_names=["flows.example.com"])
        with RunningDemux(directory, daemon, options=options) as demux:
            asyncio.run(measure_accepted(demux, FLOWS))
        (directory / "forward").mkdir()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as backend:
            backend.bind(("127.0.0.1", 0))
            backend.settimeout(PATIENCE)
            target = f"forward 127.0.0.1:{backend.getsockname()[1]}"
            daemon.ask("unregister", name="flows")
            daemon.register("flows", alpns=["smb"], server_names=["flows.example.com"], deliver=target)
            with RunningDemux(directory / "forward", daemon, options=options[1:]) as demux:
                measure_forwarded(demux, backend, FLOWS)


def connected_flow(port: int, peer: tuple[str, int]) -> socket.socket:
    """Open a socket of the shared `port` connected to `peer`, as ``handshaked.demux.shared_port`` does."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", port))  # noqa: S104 - see above
    sock.connect(peer)
    return sock


def microseconds(work: Callable[[], object]) -> float:
    """Return the average time of a call of `work`."""
    started = time.perf_counter()
    for _ in range(LOOKUPS):
        work()
    return (time.perf_counter() - started) / LOOKUPS * 1e6


def measure_lookup() -> None:
    """Measure the kernel's socket lookup for a datagram of a connected flow, and for one of no flow."""
    with ExitStack() as stack:
        shared = stack.enter_context(OwnSockets().shared(("127.0.0.1", free_port())))
        address = shared.getsockname()
        stranger, known = clients(2, stack)
        own = stack.enter_context(connected_flow(address[1], known.getsockname()))
        count = 0
        for target in CONNECTED:
            for number in range(count, target):
                stack.enter_context(connected_flow(address[1], (f"127.1.{number >> 8}.{number & 255}", 9)))
            count = target
            of_flow = microseconds(lambda: (known.sendto(b"x" * 1200, address), own.recv(2000)))
            of_none = microseconds(lambda: (stranger.sendto(b"x" * 1200, address), shared.recv(2000)))
            report(f"demux.lookup.of_none.{target}", of_none, "us", "of a flow", of_flow)


def main() -> None:
    """Run the benchmark, or its clients."""
    if sys.argv[1:2] == ["clients"]:
        run_clients(int(sys.argv[2]), int(sys.argv[3]))
        return
    measure_lookup()
    measure_flows()


if __name__ == "__main__":
    main()
