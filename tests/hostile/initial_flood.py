"""Honest clients of the shared port beside a flood of Initials from spoofed sources.

``python -m tests.hostile.initial_flood --rate 10000 --seconds 30``, as root. Exits with 1 if an established flow loses
datagrams, a new connection fails, or more than one of a hundred take longer than a second.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.demux.dispatcher import Bounds
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.processes import ending
from tests.demux.clients import Target, connected, echo
from tests.demux.conftest import DEMUX_USER, FIRST_USER
from tests.hostile.honest import LIMIT, NICE, percentile
from tests.patience import PATIENCE

NAME, ALPN = "smb.example.com", "smb"
SECONDS_BEFORE = 3.0
ESTABLISHED = 4
PAUSE = 0.1  # between two operations of a client
LONGEST_P99 = 1.0
"""Seconds. A machine that is too busy for that without a flood is held to the ratio of ``honest``."""
SLOW_SHARE = 0.01
"""Share of the connections that may take longer, or one of fewer than a hundred."""
_UNCONNECTED = 7  # TCP_CLOSE in net/tcp_states.h


@dataclass(frozen=True, slots=True)
class Plan:
    """A flood of `rate` Initials a second for `seconds`.

    Their ClientHellos ask for `server_name`; without it, none of their packets opens. The demultiplexer sends a Retry
    from `retry_from` new connections a second on. The flood pauses after `pulse` seconds for as long, unless that is 0.
    """

    rate: float
    seconds: float
    delivery: str = "accept"
    server_name: str | None = NAME
    retry_from: float = Bounds().retry_from
    pulse: float = 0.0


@dataclass
class Report:
    """The cost of the flood. Latencies are in seconds, of connecting and one echo."""

    plan: Plan
    sent: int = 0
    seconds: float = 0.0
    sender_seconds: float = 0.0
    """Processor time of the sender."""
    demux_seconds: float = 0.0
    """Processor time of the demultiplexer, before the flood, too."""
    lost: int = 0
    """Datagrams that the shared queue had no room for."""
    lost_by_flows: int = 0
    """Datagrams that the queues of established flows had no room for."""
    answers: list[int] = field(default_factory=list)
    """Echoes on each established flow."""
    before: list[float] = field(default_factory=list)
    under: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """The time that new connections may take, but for SLOW_SHARE of them, in seconds."""
        return max(LONGEST_P99, LIMIT * percentile(self.before, 0.99))

    def check(self) -> None:
        """Raise AssertionError if the flood costs honest clients too much; a failed connection has raised before."""
        assert not self.lost_by_flows, str(self)
        slow = sum(latency > self.limit for latency in self.under)
        assert slow <= max(1, SLOW_SHARE * len(self.under)), str(self)

    def __str__(self) -> str:
        latencies = "; ".join(
            f"{name} p50 {1e3 * percentile(found, 0.5):.0f} ms, p99 {1e3 * percentile(found, 0.99):.0f} ms,"
            f" longest {1e3 * max(found):.0f} ms ({len(found)} connections)"
            for name, found in (("before", self.before), ("under the flood", self.under))
        )
        metrics = {name: int(value) for name, value in self.metrics.items() if value}
        return (
            f"{self.sent / self.seconds:.0f} Initials a second for {self.seconds:.1f} s (wanted: {self.plan.rate:.0f});"
            f" {self.lost} lost, {self.lost_by_flows} by established flows; CPU time of each:"
            f" {self.sender_seconds / self.sent * 1e6:.1f} microseconds to send,"
            f" {self.demux_seconds / self.sent * 1e6:.1f} to answer; {latencies}; echoes on established flows"
            f" {self.answers}; {metrics}"
        )


@contextmanager
def flooding(port: int, report: Report) -> Iterator[None]:
    """Flood `port` in a process of its own; the report has its figures after the block."""
    plan = report.plan
    names = [] if plan.server_name is None else [plan.server_name, ALPN]
    command = [
        sys.executable,
        "-m",
        "tests.hostile.flood",
        str(port),
        *map(str, (plan.seconds, plan.rate, plan.pulse)),
        *names,
    ]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
        assert process.stdout is not None
        assert process.stdout.readline() == "underway\n"
        yield
        output, _ = process.communicate(timeout=plan.seconds + PATIENCE)
        assert process.returncode == 0
    sent, seconds, used = output.split()
    report.sent, report.seconds, report.sender_seconds = int(sent), float(seconds), float(used)


def dropped(port: int, *, connected: bool) -> int:
    """Return the number of datagrams that the connected or unconnected sockets of `port` had no room for."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return sum(
        int(words[-1])
        for words in map(str.split, lines)
        if int(words[1].rpartition(":")[2], 16) == port and (int(words[3], 16) != _UNCONNECTED) == connected
    )


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def talk(target: Target, end: asyncio.Event) -> int:
    """Send and receive on one connection until `end`; return the number of answers."""
    answers = 0
    async with connected(target, NAME, ALPN) as client:
        while not end.is_set():
            assert await echo(client, b"x" * 500) == ("smb", b"x" * 500)
            answers += 1
            await asyncio.sleep(PAUSE)
    return answers


async def connect_again(target: Target, seconds: float) -> list[float]:
    """Connect again and again for `seconds`; return how long each connection and its echo took."""
    latencies: list[float] = []
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        started = time.monotonic()
        async with connected(target, NAME, ALPN) as client:
            assert await echo(client, b"hello") == ("smb", b"hello")
            latencies.append(time.monotonic() - started)
        await asyncio.sleep(PAUSE)
    return latencies


@contextmanager
def prioritized() -> Iterator[None]:
    """Give this process and its children a higher priority, where that is allowed; see ``honest``."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):  # in a container without CAP_SYS_NICE
        os.setpriority(os.PRIO_PROCESS, 0, before - NICE)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@contextmanager
def served(directory: Path, authority: Authority, plan: Plan) -> Iterator[RunningDemux]:
    """Run a daemon, a demultiplexer and an SMB server behind it, of different users."""
    issued = authority.issue(NAME)
    options = (f"--retry-from={plan.retry_from:.0f}",)
    with (
        RunningDaemon(directory, options=("--no-kernel", f"--demux-user={DEMUX_USER}")) as daemon,
        RunningDemux(directory, daemon, user=DEMUX_USER, options=options) as demux,
    ):
        daemon.register(
            "smb",
            (issued.certificate, issued.key),
            alpns=[ALPN],
            server_names=[NAME],
            allow_users=[str(FIRST_USER)],
            deliver=plan.delivery,
        )
        with smb_server(daemon, demux, "smb", user=FIRST_USER):
            yield demux


def measure(directory: Path, authority: Authority, plan: Plan) -> Report:
    """Flood a demultiplexer according to `plan`. AssertionError or ConnectionError if a connection fails."""
    report = Report(plan)

    async def scenario(demux: RunningDemux) -> None:
        target, end = Target(demux.port, authority.root), asyncio.Event()
        talks = [asyncio.create_task(talk(target, end)) for _ in range(ESTABLISHED)]
        report.before = await connect_again(target, SECONDS_BEFORE)
        with flooding(demux.port, report):
            report.under = await connect_again(target, plan.seconds)
        end.set()
        report.answers = list(await asyncio.gather(*talks))

    with prioritized(), served(directory, authority, plan) as demux:
        used = processor_seconds(demux.pid)
        asyncio.run(scenario(demux))
        report.demux_seconds = processor_seconds(demux.pid) - used
        report.lost, report.lost_by_flows = dropped(demux.port, connected=False), dropped(demux.port, connected=True)
        report.metrics = demux.metrics()
    return report


def main() -> None:
    """Flood, and print what it cost."""
    parser = argparse.ArgumentParser(description="Measure honest clients beside a flood of Initials.")
    parser.add_argument("--rate", type=float, default=10_000.0, help="Initials per second (default: 10000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the flood (default: 30)")
    parser.add_argument("--delivery", choices=("accept", "relay"), default="accept", help="way of the honest clients")
    parser.add_argument("--server-name", default=NAME, help="server name of the flood; empty: packets do not open")
    arguments = parser.parse_args()
    plan = Plan(arguments.rate, arguments.seconds, arguments.delivery, arguments.server_name or None)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        report = measure(directory, Authority(directory), plan)
    print(report)
    report.check()


if __name__ == "__main__":
    main()
