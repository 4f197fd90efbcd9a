"""nfsd's handshakes in the laboratory's kernel, by this daemon and by tlshd: wall time, and CPU time of everything.

Wall time is the client's, inside. CPU time is what the whole kernel took here, client and nfsd included, less that of
a boot without the handshakes; see ``tests/kernel`` for the laboratory, which needs root.
"""

import json

from tests.kernel.lab import Result, boot

MEMORY = "9G"  # enough for the kernel to let 50 requests wait
COUNT = 200
PATTERNS = ((COUNT, 20, 0), (0, 20, COUNT // 20))  # one after another, 20 at once


def main() -> None:
    """Print one JSON object for each agent and pattern."""
    for agent in ("handshaked", "tlshd"):
        idle = run(agent, 0, 20, 0)
        for counts in PATTERNS:
            result = run(agent, *counts)
            figures = json.loads(result.output.splitlines()[-1])
            cpu_ms = round((result.cpu_seconds - idle.cpu_seconds) / COUNT * 1e3, 1)
            print(json.dumps({"benchmark": "kernel", "agent": agent, **figures, "machine_cpu_ms": cpu_ms}), flush=True)


def run(agent: str, *counts: int) -> Result:
    """A boot in which `agent` does so many handshakes."""
    result = boot("benchmark", agent, *map(str, counts), memory=MEMORY)
    if result.status != 0:
        raise SystemExit(result.output)
    return result


if __name__ == "__main__":
    main()
