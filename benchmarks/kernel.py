"""Handshakes of nfsd in User-Mode Linux, by this daemon and by tlshd: wall time and CPU time.

Wall time is measured by the client inside. CPU time is that of the whole kernel, including the client and nfsd, less
that of a boot without handshakes. ``tests/kernel`` has the lab, which requires root.
"""

import json
from dataclasses import dataclass

from benchmarks._measure import report
from tests.kernel.lab import boot

MEMORY = "9G"  # lets the kernel queue 50 requests
AT_ONCE = 20
COUNTS = {"handshaked": 4000, "tlshd": 400}  # enough to make the half second by which boots vary small
PATTERNS = ("one after another", f"{AT_ONCE} at once")


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of one handshake, in milliseconds."""

    wall: float
    cpu: float


def main() -> None:
    """Run the benchmark."""
    run("handshaked", 0, AT_ONCE, 0)  # prepares the root file system and its layers
    ours, theirs = measure("handshaked"), measure("tlshd")
    for pattern in PATTERNS:
        report(f"kernel.wall, {pattern}", ours[pattern].wall, "ms", "tlshd", theirs[pattern].wall)
        report(f"kernel.cpu, {pattern}", ours[pattern].cpu, "ms", "tlshd", theirs[pattern].cpu)


def measure(agent: str) -> dict[str, Figures]:
    """Measure `agent`. Return its figures by pattern."""
    count = COUNTS[agent]
    idle, _ = run(agent, 0, AT_ONCE, 0)
    figures = {}
    for pattern, counts in zip(PATTERNS, ((count, AT_ONCE, 0), (0, AT_ONCE, count // AT_ONCE)), strict=True):
        cpu_seconds, output = run(agent, *counts)
        cpu = (cpu_seconds - idle) / count * 1e3
        figures[pattern] = Figures(json.loads(output.splitlines()[-1])["wall_ms"], cpu)
    return figures


def run(agent: str, *counts: int) -> tuple[float, str]:
    """Boot, and let `agent` do `counts` handshakes. Return the CPU time of the kernel in seconds, and the output."""
    result = boot("benchmark", agent, *map(str, counts), memory=MEMORY)
    if result.status != 0:
        raise SystemExit(result.output)
    return result.cpu_seconds, result.output


if __name__ == "__main__":
    main()
