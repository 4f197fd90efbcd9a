"""nfsd's handshakes in the laboratory's kernel, by this daemon and by tlshd: wall time, and CPU time of everything.

Wall time is the client's, inside. CPU time is what the whole kernel took here, client and nfsd included, less that of
a boot without the handshakes; see ``tests/kernel`` for the laboratory, which needs root.
"""

import json
from dataclasses import dataclass

from benchmarks._report import report
from tests.kernel.lab import boot

MEMORY = "9G"  # enough for the kernel to let 50 requests wait
AT_ONCE = 20
COUNTS = {"handshaked": 4000, "tlshd": 400}  # a boot's own CPU time varies by half a second, which has to be little
PATTERNS = ("one after another", f"{AT_ONCE} at once")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one handshake, in milliseconds."""

    wall: float
    cpu: float


def main() -> None:
    """Print this daemon's figures beside those of tlshd."""
    run("handshaked", 0, AT_ONCE, 0)  # what is prepared once is prepared now
    ours, theirs = measure("handshaked"), measure("tlshd")
    for pattern in PATTERNS:
        report(f"kernel.wall, {pattern}", ours[pattern].wall, "ms", "tlshd", theirs[pattern].wall)
        report(f"kernel.cpu, {pattern}", ours[pattern].cpu, "ms", "tlshd", theirs[pattern].cpu)


def measure(agent: str) -> dict[str, Figures]:
    """What `agent` does, by pattern."""
    count = COUNTS[agent]
    idle, _ = run(agent, 0, AT_ONCE, 0)
    figures = {}
    for pattern, counts in zip(PATTERNS, ((count, AT_ONCE, 0), (0, AT_ONCE, count // AT_ONCE)), strict=True):
        cpu_seconds, output = run(agent, *counts)
        cpu = (cpu_seconds - idle) / count * 1e3
        figures[pattern] = Figures(json.loads(output.splitlines()[-1])["wall_ms"], cpu)
    return figures


def run(agent: str, *counts: int) -> tuple[float, str]:
    """A boot in which `agent` does so many handshakes: its CPU time in seconds, and what was printed."""
    result = boot("benchmark", agent, *map(str, counts), memory=MEMORY)
    if result.status != 0:
        raise SystemExit(result.output)
    return result.cpu_seconds, result.output


if __name__ == "__main__":
    main()
