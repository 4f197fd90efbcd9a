"""Report figures as one JSON object per line, and measure processes."""

import json
import time
from pathlib import Path


def report(name: str, value: float, unit: str, peer: str | None = None, peer_value: float | None = None) -> None:
    """Print a figure; with a peer measured in the same run, also its figure and the ratio (None for a peer's zero)."""
    line: dict[str, object] = {"name": name, "value": round(value, 3), "unit": unit}
    if peer is not None and peer_value is not None:
        ratio = round(value / peer_value, 3) if peer_value else None
        line |= {"peer": peer, "peer_value": round(peer_value, 3), "ratio": ratio}
    print(json.dumps(line), flush=True)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time used by the process, at nanosecond resolution: its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> int:
    """Return the resident set size of the process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class CpuMeter:
    """Measures the CPU time of the process `pid`, and the elapsed time, from the creation of the meter."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._started = cpu_seconds(pid), time.perf_counter()

    @property
    def seconds(self) -> float:
        """The elapsed time."""
        return time.perf_counter() - self._started

    @property
    def cpu(self) -> float:
        """The CPU time used since, in seconds."""
        return cpu_seconds(self._pid) - self._cpu
