"""The demultiplexer: rate and cost of connections, throughput of forwarding, and restarts.

A connection through the demultiplexer is compared with one to the same server directly, in the same run. Throughput is
measured with Debian 13's nginx and curl, as root.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from statistics import median

from benchmarks._measure import CpuMeter, cpu_seconds, report
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server, smb_server_on_own_port
from handshaked.testing.ports import free_port
from tests.demux import debian_programs
from tests.demux.clients import Target, connected
from tests.run_name import public_temporary_directory

CONNECTIONS = 60
ROUNDS = 7
RESTARTS = 5
DOWNLOAD = 50_000_000
DOWNLOADS = 5
NOBODY = 65534
NO_RETRY = ("--retry-from=1000000",)
_DELIVERIES = {"direct": "accept", "accept": "accept", "relay": "relay", "forward": "forward 127.0.0.1:{port}"}


async def connections(target: Target, server_name: str, count: int) -> float:
    """Open `count` connections, four at a time, and close them at the end. Return connections per second."""
    async with connected(target, server_name, "smb"):
        pass
    slots = asyncio.Semaphore(4)
    done = asyncio.Event()

    async def one(rest: list[int]) -> None:
        await slots.acquire()
        async with connected(target, server_name, "smb"):
            slots.release()
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
    """Measure connections of aioquic: direct, accepted, relayed and forwarded, in interleaved rounds."""
    with RunningDemux(directory, daemon, options=NO_RETRY) as demux, smb_server_on_own_port(daemon) as port:
        for name, delivery in _DELIVERIES.items():
            # The server behind ``forward`` finds its certificate in the registration, too.
            issued = authority.issue(f"{name}.example.com")
            daemon.register(
                name, (issued.certificate, issued.key), alpns=["smb"], server_names=[f"{name}.example.com"],
                deliver=delivery.format(port=port),
            )  # fmt: skip
        rates: dict[str, list[float]] = {name: [] for name in _DELIVERIES}
        used = dict.fromkeys(_DELIVERIES, 0.0)
        with smb_server(daemon, demux, "accept", "relay"):
            for name in list(_DELIVERIES) * ROUNDS:
                target = Target(port if name == "direct" else demux.port, authority.root)
                meter = CpuMeter(demux.pid)
                rates[name].append(asyncio.run(connections(target, f"{name}.example.com", CONNECTIONS)))
                used[name] += meter.cpu
    for name in ("accept", "relay", "forward"):
        report(f"demux.{name}.connections", median(rates[name]), "1/s", "direct", median(rates["direct"]))
        report(f"demux.{name}.cpu_per_connection", used[name] / CONNECTIONS / ROUNDS * 1e6, "us")


def measure_restart(directory: Path, daemon: RunningDaemon, authority: Authority) -> None:
    """Measure the time from a restart after SIGKILL to the first new connection of a server that kept running."""
    issued = authority.issue("restart.example.com")
    daemon.register("restart", (issued.certificate, issued.key), alpns=["smb"], server_names=["restart.example.com"])

    async def connection(port: int) -> None:
        async with connected(Target(port, authority.root), "restart.example.com", "smb"):
            pass

    with RunningDemux(directory, daemon, activated=True) as demux, smb_server(daemon, demux, "restart"):
        took = []
        for _ in range(RESTARTS):
            demux.stop(signal.SIGKILL)
            started = time.perf_counter()
            demux.start()
            asyncio.run(connection(demux.port))
            took.append(time.perf_counter() - started)
    report("demux.restart", median(took), "s")


def measure_throughput(directory: Path, daemon: RunningDaemon, authority: Authority, *, gso: bool) -> None:
    """Measure downloads from nginx with curl, direct and forwarded; `gso`: nginx uses segmentation offload."""
    issued, port = authority.issue("web.example.com"), free_port()
    name = "demux.forward.gso" if gso else "demux.forward"
    deliver = f"forward 127.0.0.1:{port}"
    daemon.register("web", alpns=["h3"], server_names=["web.example.com"], deliver=deliver, replace=True)
    with (
        debian_programs.prepared() as debian,
        debian_programs.nginx(debian, NOBODY, port, {"web.example.com": issued}, gso=gso),
        RunningDemux(directory, daemon) as demux,
    ):
        with (debian.outside / "nginx" / "body").open("wb") as file:
            file.truncate(DOWNLOAD)
        before = cpu_seconds(demux.pid)
        direct, forwarded = [], []
        for _ in range(DOWNLOADS):
            direct.append(debian_programs.download(debian, "web.example.com", port, authority.root))
            forwarded.append(debian_programs.download(debian, "web.example.com", demux.port, authority.root))
        used = cpu_seconds(demux.pid) - before
    report(f"{name}.throughput", median(forwarded) * 8e-6, "Mbit/s", "direct", median(direct) * 8e-6)
    report(f"{name}.cpu_per_megabyte", used / DOWNLOADS / DOWNLOAD * 1e9, "ms")


def main() -> None:
    """Run the benchmark."""
    with public_temporary_directory() as directory, RunningDaemon(directory, log_level="warning") as daemon:
        authority = Authority(directory)
        places = [directory / name for name in ("restart", "connections", "plain", "gso")]
        for place in places:
            place.mkdir()
        measure_restart(places[0], daemon, authority)
        measure_connections(places[1], daemon, authority)
        if os.geteuid() == 0:
            measure_throughput(places[2], daemon, authority, gso=False)
            measure_throughput(places[3], daemon, authority, gso=True)


if __name__ == "__main__":
    main()
