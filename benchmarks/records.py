"""Throughput of the record layer, in memory."""

from __future__ import annotations

import time

from benchmarks._measure import report
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.tls.record import ContentType, RecordLayer

TOTAL = 64 * 2**20


def main() -> None:
    """Run the benchmark."""
    data = bytes(2**20)
    for suite in CipherSuite:
        secret = bytes(suite.secret_length)
        out, layer = RecordLayer(Role.CLIENT), RecordLayer(Role.SERVER)
        out.install(TrafficSecret(Level.APPLICATION, Direction.SEND, suite, secret))
        layer.install(TrafficSecret(Level.APPLICATION, Direction.RECEIVE, suite, secret))
        spent = {"sealed": 0.0, "opened": 0.0}
        for _ in range(TOTAL // len(data)):
            begin = time.process_time()
            stream = out.protect(Level.APPLICATION, ContentType.APPLICATION_DATA, data)
            between = time.process_time()
            layer.receive(stream)
            while layer.pull():
                pass
            spent["sealed"] += between - begin
            spent["opened"] += time.process_time() - between
        for name, seconds in spent.items():
            report(f"records {name}, {suite.name}", TOTAL / seconds / 2**20, "MiB/s")


if __name__ == "__main__":
    main()
