"""nfsd's handshakes in the laboratory's kernel, by this daemon and by tlshd: wall time, and CPU time of everything.

Wall time is the client's, inside. CPU time is what the whole kernel took here, client and nfsd included, less that of
a boot without the handshakes, so it holds the client's part for both agents. Boots differ by more than a handshake
takes: the better of two counts, for each figure. See ``tests/kernel`` for the laboratory, which needs root.
"""

import json

from benchmarks._report import report
from tests.kernel.lab import Result, boot

MEMORY = "9G"  # enough for the kernel to let 50 requests wait
COUNT = 1000  # a boot takes as long as some hundred handshakes, give or take a tenth
AT_ONCE = 20
BOOTS = 2
PATTERNS = {"one after another": (COUNT, AT_ONCE, 0), f"{AT_ONCE} at once": (0, AT_ONCE, COUNT // AT_ONCE)}


def main() -> None:
    """Measure both agents in each pattern."""
    idle = {agent: min(one.cpu_seconds for one in boots(agent, 0, AT_ONCE, 0)) for agent in ("handshaked", "tlshd")}
    for pattern, counts in PATTERNS.items():
        wall, cpu = {}, {}
        for agent, before in idle.items():
            results = boots(agent, *counts)
            wall[agent] = min(json.loads(one.output.splitlines()[-1])["wall_ms"] for one in results)
            cpu[agent] = (min(one.cpu_seconds for one in results) - before) / COUNT * 1e3
        report(f"nfsd handshake, {pattern}: wall", wall["handshaked"], "ms", "tlshd", wall["tlshd"])
        report(f"nfsd handshake, {pattern}: CPU, client included", cpu["handshaked"], "ms", "tlshd", cpu["tlshd"])


def boots(agent: str, *counts: int) -> list[Result]:
    """Boots in each of which `agent` does so many handshakes."""
    results = [boot("benchmark", agent, *map(str, counts), memory=MEMORY) for _ in range(BOOTS)]
    for result in results:
        if result.status != 0:
            raise SystemExit(result.output)
    return results


if __name__ == "__main__":
    main()
