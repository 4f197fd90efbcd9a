"""nfsd's handshakes in the laboratory's kernel, by this daemon and by tlshd: wall time, and CPU time of everything.

Wall time is the client's, inside. CPU time is what the whole kernel took here, client and nfsd included, less that of
a boot without the handshakes, so it holds the client's part for both agents; see ``tests/kernel`` for the laboratory,
which needs root.
"""

import json

from benchmarks._report import report
from tests.kernel.lab import Result, boot

MEMORY = "9G"  # enough for the kernel to let 50 requests wait
COUNT = 200
AT_ONCE = 20
PATTERNS = {"one after another": (COUNT, AT_ONCE, 0), f"{AT_ONCE} at once": (0, AT_ONCE, COUNT // AT_ONCE)}


def main() -> None:
    """Measure both agents in each pattern."""
    idle = {agent: run(agent, 0, AT_ONCE, 0).cpu_seconds for agent in ("handshaked", "tlshd")}
    for pattern, counts in PATTERNS.items():
        wall, cpu = {}, {}
        for agent, before in idle.items():
            result = run(agent, *counts)
            wall[agent] = json.loads(result.output.splitlines()[-1])["wall_ms"]
            cpu[agent] = (result.cpu_seconds - before) / COUNT * 1e3
        report(f"nfsd handshake, {pattern}: wall", wall["handshaked"], "ms", "tlshd", wall["tlshd"])
        report(f"nfsd handshake, {pattern}: CPU, client included", cpu["handshaked"], "ms", "tlshd", cpu["tlshd"])


def run(agent: str, *counts: int) -> Result:
    """A boot in which `agent` does so many handshakes."""
    result = boot("benchmark", agent, *map(str, counts), memory=MEMORY)
    if result.status != 0:
        raise SystemExit(result.output)
    return result


if __name__ == "__main__":
    main()
