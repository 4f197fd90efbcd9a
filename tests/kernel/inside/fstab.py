"""Under systemd as PID 1: handshaked is ready before remote file systems are mounted: ``xprtsec=`` in fstab works."""

from pathlib import Path

from tests.kernel.inside.scene import must


def monotonic(unit: str, event: str) -> int:
    """Return the time of an event in the life of `unit`, in microseconds since boot."""
    return int(must("systemctl", "show", "--property", f"{event}TimestampMonotonic", "--value", unit))


def journal() -> str:
    """The log since boot."""
    return must("journalctl", "--boot", "--output=short-monotonic", "--lines=200")


ready = monotonic("handshaked.service", "ActiveEnter")
assert ready, journal()
reached = monotonic("remote-fs-pre.target", "ActiveEnter")
assert 0 < ready <= reached, (ready, reached)
mounting = monotonic("secure.mount", "InactiveExit")
assert reached <= mounting, (reached, mounting)
assert must("systemctl", "is-active", "secure.mount").strip() == "active", journal()
(Path("/export") / "greeting").write_text("hello")
assert (Path("/secure") / "greeting").read_text() == "hello"
assert "xprtsec=tls" in Path("/proc/mounts").read_text()
print(f"seen: ready after {ready} us, remote-fs-pre.target after {reached} us, the mount began after {mounting} us")
cycles = [line for line in journal().splitlines() if "ordering cycle" in line]
assert not cycles, cycles
