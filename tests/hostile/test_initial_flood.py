"""A flood of Initials from spoofed sources at the shared port, beside established and new honest connections."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from handshaked.demux.dispatcher import Bounds
from handshaked.testing.authority import Authority, Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.processes import ending
from tests.conftest import Issue
from tests.demux.clients import Target, connected, echo
from tests.demux.conftest import DEMUX_USER, FIRST_USER
from tests.hostile.flood import queued_and_dropped
from tests.hostile.honest import Comparison
from tests.patience import PATIENCE

pytestmark = pytest.mark.needs("root")

NAME = "smb.example.com"
SECONDS_BEFORE = 5.0
RATES = {"hello": 10_000, "forged": Bounds().retry_from * 0.9}
"""Datagrams a second. Above ``retry_from``, no packet is opened."""
ESTABLISHED = 4
PAUSE = 0.1  # between two operations of a client
LONGEST_P99 = 1.0
"""Seconds. A machine that is too busy for that without a flood is held to the ratio of ``honest``."""


def share_of_machine() -> float:
    """Return the share of the processors that other work leaves, at least for one process of each two that wait."""
    return 1 / max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass
class Flood:
    """What ``tests.hostile.flood`` reports at its end."""

    wanted: float
    sent: int = 0
    seconds: float = 0.0
    dropped: int = 0

    def __str__(self) -> str:
        rate = self.sent / self.seconds
        return (
            f"{rate:.0f} Initials a second for {self.seconds:.1f} s (wanted: {self.wanted:.0f}), {self.dropped} dropped"
        )


@contextmanager
def flooding(port: int, seconds: float, kind: str, share: float) -> Iterator[Flood]:
    """Flood `port` for `seconds` in a process of its own; its report is complete after the block."""
    command = [sys.executable, "-m", "tests.hostile.flood", str(port), str(seconds), str(RATES[kind] * share), kind]
    flood = Flood(RATES[kind])
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        yield flood
        output, _ = process.communicate(timeout=seconds + PATIENCE)
        assert process.returncode == 0
    sent, seconds, dropped = output.split()
    flood.sent, flood.seconds, flood.dropped = int(sent), float(seconds), int(dropped)


async def talk(target: Target, end: asyncio.Event) -> int:
    """Send and receive on one connection until `end`; return the number of answers."""
    answers = 0
    async with connected(target, NAME, "smb") as client:
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
        async with connected(target, NAME, "smb") as client:
            assert await echo(client, b"hello") == ("smb", b"hello")
        latencies.append(time.monotonic() - started)
        await asyncio.sleep(PAUSE)
    return latencies


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(directory: Path, delivery: str, issued: Issued, retry_from: float) -> Iterator[RunningDemux]:
    """Run a daemon, a demultiplexer and an SMB server behind it, of different users."""
    options = (f"--retry-from={retry_from:.0f}",)
    with (
        RunningDaemon(directory, options=("--no-kernel", f"--demux-user={DEMUX_USER}")) as daemon,
        RunningDemux(directory, daemon, user=DEMUX_USER, options=options) as demux,
    ):
        daemon.register(
            "smb",
            (issued.certificate, issued.key),
            alpns=["smb"],
            server_names=[NAME],
            allow_users=[str(FIRST_USER)],
            deliver=delivery,
        )
        with smb_server(daemon, demux, "smb", user=FIRST_USER):
            yield demux


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("delivery", "kind", "seconds"), [("accept", "hello", 30.0), ("relay", "hello", 10.0), ("accept", "forged", 10.0)]
)
def test_flood_of_initials_costs_honest_clients_little(
    delivery: str, kind: str, seconds: float, public_directory: Path, authority: Authority, issue: Issue
) -> None:
    """Established flows lose nothing; every new connection succeeds, 99 of 100 within a second."""

    share = share_of_machine()

    async def scenario(demux: RunningDemux) -> tuple[Comparison, Flood, list[int]]:
        target, end = Target(demux.port, authority.root), asyncio.Event()
        talks = [asyncio.create_task(talk(target, end)) for _ in range(ESTABLISHED)]
        before = await connect_again(target, SECONDS_BEFORE)
        with flooding(demux.port, seconds, kind, share) as flood:
            under = await connect_again(target, seconds)
        end.set()
        return Comparison([before], [under], LONGEST_P99, PATIENCE), flood, await asyncio.gather(*talks)

    with served(public_directory, delivery, issue(NAME), Bounds().retry_from * share) as demux:
        _, before = queued_and_dropped(demux.port, connected=True)
        used = processor_seconds(demux.pid)
        found, flood, answers = asyncio.run(scenario(demux))
        used = processor_seconds(demux.pid) - used
        print(f"{flood}; {used / flood.sent * 1e6:.0f} microseconds each; connections {found}; answers {answers}")
        print({name: value for name, value in demux.metrics().items() if value})
        assert queued_and_dropped(demux.port, connected=True)[1] == before
        found.check()
