"""100,000 registrations: time of a selection and of the daemon's start, and memory of a worker."""

import os
import random
import time
from pathlib import Path
from statistics import median

from benchmarks._measure import report
from handshaked.model import Caller
from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Access
from handshaked.registry.snapshot import Query, Snapshot
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.system.directories import DATABASE
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.run_name import public_temporary_directory

COUNT = 100_000
_SCHEMES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)


def fill(path: Path, authority: Authority) -> Snapshot:
    """Fill a database with COUNT registrations, each with its own name, ALPN, user and credential."""
    issued = authority.issue("bench.example.com")
    credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
    source = Source(str(issued.certificate), str(issued.key))
    store = SqliteRegistryWriter(path)
    store.register_all(
        NewRegistration(
            name=f"registration-{index}",
            owner=os.geteuid(),  # the owner of the files, which are watched only then
            access=Access(frozenset({1000 + index % 500})),
            server_names=(f"host-{index}.example.com",) if index % 10 else (f"*.zone-{index}.example.com",),
            alpns=(b"h3",) if index % 3 else (b"smb",),
            credentials=((credential, source),),
        )
        for index in range(COUNT)
    )
    snapshot = store.load()
    store.close()
    return snapshot


def selection_times(snapshot: Snapshot) -> list[float]:
    """Return the times of many selections in seconds, of exact names and wildcards that exist or not."""
    chooser = random.Random(1)  # noqa: S311 - not for cryptography, and reproducible
    times = []
    for _ in range(20_000):
        index = chooser.randrange(COUNT)
        name = f"host-{index}.example.com" if index % 10 else f"a.zone-{index}.example.com"
        query = Query(Caller(0), name, (b"h3", b"smb"), _SCHEMES)
        started = time.perf_counter()
        snapshot.select(query)
        times.append(time.perf_counter() - started)
    return times


def started_worker_memory(directory: Path) -> tuple[float, int]:
    """Return the start time of a daemon with one worker in seconds, and that worker's private memory in bytes."""
    started = time.perf_counter()
    with RunningDaemon(directory, workers=1) as daemon:
        seconds = time.perf_counter() - started
        lines = Path(f"/proc/{daemon.worker_pids()[0]}/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return seconds, private * 1024


def main() -> None:
    """Run the benchmark."""
    with public_temporary_directory() as directory:
        full, empty = directory / "full", directory / "empty"
        full.mkdir()
        empty.mkdir()
        snapshot = fill(full / "state" / DATABASE, Authority(full))
        times = selection_times(snapshot)
        report(f"selection among {COUNT} registrations, median", median(times) * 1e6, "us")
        report(f"selection among {COUNT} registrations, 99th percentile", sorted(times)[-200] * 1e6, "us")
        empty_seconds, empty_memory = started_worker_memory(empty)
        full_seconds, full_memory = started_worker_memory(full)
        report(f"start with {COUNT} registrations", full_seconds, "s", "start with none", empty_seconds)
        report("worker memory per registration", (full_memory - empty_memory) / COUNT, "bytes")


if __name__ == "__main__":
    main()
