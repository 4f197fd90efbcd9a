"""OpenMetrics for Prometheus and compatible collectors, on a Unix socket or a loopback port; off by default.

Workers send their counts to the parent, which adds and serves them. Unlike prometheus-client's own multi-process mode,
this needs no shared files, which could fill a disk or be left by dead workers, and gauges are exact.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from handshaked import __version__
from handshaked.callers.closing import Closer
from handshaked.errors import RefusedError
from handshaked.registry.expiry import warning_time
from handshaked.registry.store import Lifetime
from handshaked.reporting.counts import BUCKETS, HandshakeCounts
from handshaked.system.readiness import readable
from handshaked.system.tasks import Tasks
from handshaked.wire.attached import CONTROL_SPACE, pull_descriptors, refuse_descriptors

log = logging.getLogger(__name__)

MAX_LIFETIMES = 5000
_REQUEST_SECONDS = 5.0
_MAX_CONNECTIONS = 16
_MAX_REQUEST = 8192
_PAUSE_SECONDS = 0.2
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class MetricValues:
    """The values of the metrics.

    ``lifetimes`` holds the lifetime of the first certificate of a registration to expire, by the registration's name,
    for MAX_LIFETIMES registrations at most; ``workers`` the status of each worker.
    """

    counts: HandshakeCounts
    unreported: int
    registrations: int
    problems: int
    lifetimes: Mapping[str, Lifetime]
    workers: Sequence[Mapping[str, Any]]
    worker_restarts: int


class Exporter:
    """Serves the values that `values` returns to HTTP requests. Descriptors that clients attach go to `closer`."""

    def __init__(self, values: Callable[[], Awaitable[MetricValues]], closer: Closer) -> None:
        self._metric_values = values
        self._closer = closer
        self._collector = _Collector()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._collector)
        self._listener: socket.socket | None = None
        self._tasks = Tasks("the metrics")
        self._connections = 0

    def start(self, inherited: socket.socket | None, address: str | None) -> None:
        """Listen on the `inherited` socket of systemd, or at `address`: a path, or HOST:PORT with a loopback host."""
        if inherited is None and address is None:
            return
        try:
            listener = inherited or _listen(address or "")
        except (OSError, RefusedError) as error:
            log.error("cannot serve metrics at %s: %s", address, error)
            return
        listener.setblocking(False)
        if listener.family == socket.AF_UNIX:
            refuse_descriptors(listener)  # closing them may block
        self._listener = listener
        self._tasks.keep(partial(self._accept, listener))
        log.info("metrics are served at %s", listener.getsockname())

    def close(self) -> None:
        """Stop listening."""
        self._tasks.cancel()
        if self._listener is not None:
            self._listener.close()

    async def text(self) -> bytes:
        """Return the metrics in OpenMetrics' text format."""
        self._collector.values = await self._metric_values()
        return bytes(generate_latest(self._registry))  # type: ignore[no-untyped-call]  # annotated in part only

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # no descriptors or memory
                log.debug("a connection for metrics could not be accepted: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if self._connections < _MAX_CONNECTIONS:
                self._connections += 1
                self._tasks.start(self._serve(sock)).add_done_callback(partial(self._ended, sock))
            else:
                self._close(sock, lambda: None)

    def _ended(self, sock: socket.socket, _: object) -> None:
        self._close(sock, self._released)

    def _released(self) -> None:
        self._connections -= 1

    def _close(self, sock: socket.socket, then: Callable[[], object]) -> None:
        if sock.family == socket.AF_UNIX:
            self._closer.close_socket("metrics", sock, then)
        else:
            sock.close()
            then()

    async def _serve(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                await self._answer(sock, await self._request(sock))
        except (OSError, ValueError, TimeoutError) as error:
            log.debug("a request for metrics failed: %s", error)

    async def _request(self, sock: socket.socket) -> bytes:
        """Return the head of a request; ValueError if it is too long or incomplete."""
        request = b""
        while b"\r\n\r\n" not in request:
            await readable(sock, "the metrics")
            part, control, _, _ = sock.recvmsg(_MAX_REQUEST, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
            await self._closer.close("metrics", pull_descriptors(control))
            request += part
            if not part or len(request) > _MAX_REQUEST:
                raise ValueError(f"{len(request)} bytes without an end")
        return request

    async def _answer(self, sock: socket.socket, request: bytes) -> None:
        method, path, *_ = request.split(b" ", 2)
        found = method in (b"GET", b"HEAD") and path.partition(b"?")[0] == b"/metrics"
        body = await self.text() if found else b"try /metrics\n"
        kind = CONTENT_TYPE_LATEST if found else "text/plain; charset=utf-8"
        head = f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\nContent-Type: {kind}\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, head.encode() + (b"" if method == b"HEAD" else body))


class _Collector(Collector):
    """Turns the latest values into metrics."""

    def __init__(self) -> None:
        self.values: MetricValues | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; none before there are values."""
        if self.values is not None:
            yield from _handshakes(self.values)
            yield from _processes(self.values)
            yield from _certificates(self.values)


def _handshakes(values: MetricValues) -> Iterator[Metric]:
    counts = values.counts
    ended = CounterMetricFamily(
        "handshaked_handshakes",
        "Finished handshakes, by outcome (ok, an alert, or an errno).",
        labels=("outcome", "role", "door", "registration"),
    )
    for key, count in counts.handshakes.items():
        ended.add_metric(key, count)
    yield ended
    lasted = HistogramMetricFamily(
        "handshaked_handshake_duration_seconds",
        "Time from the request to its outcome, including the round trips to the peer.",
        labels=("role", "door"),
        unit="seconds",
    )
    for kind, latency in counts.latencies.items():
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), latency.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        lasted.add_metric(kind, buckets, latency.total)
    yield lasted
    yield CounterMetricFamily(
        "handshaked_records_left_out",
        "Handshakes that were counted but not sent to subscribers, because there were too many.",
        value=values.unreported,
    )


def _processes(values: MetricValues) -> Iterator[Metric]:
    yield InfoMetricFamily("handshaked", "The daemon.", value={"version": __version__})
    for family, key, words in (
        ("handshaked_in_flight", "in_flight", "Handshakes in flight, by worker."),
        ("handshaked_queue_bytes", "queue", "Bytes of messages that endpoints have not read yet, by worker."),
    ):
        gauge = GaugeMetricFamily(family, words, labels=("worker",))
        for worker in values.workers:
            gauge.add_metric((str(worker["slot"]),), worker.get(key, 0))
        yield gauge
    answering = sum(bool(worker["answers"]) for worker in values.workers)
    yield GaugeMetricFamily("handshaked_workers", "Worker processes that answer.", value=answering)
    yield CounterMetricFamily(
        "handshaked_worker_restarts", "Workers that ended and were restarted.", value=values.worker_restarts
    )


def _certificates(values: MetricValues) -> Iterator[Metric]:
    yield GaugeMetricFamily("handshaked_registrations", "Registrations.", value=values.registrations)
    yield GaugeMetricFamily("handshaked_problems", "Files that are not usable.", value=values.problems)
    ends = GaugeMetricFamily(
        "handshaked_certificate_not_after_seconds",
        "Expiry of the first certificate of a registration to expire, in Unix seconds.",
        labels=("registration",),
        unit="seconds",
    )
    due = GaugeMetricFamily(
        "handshaked_certificate_renewal_due_seconds",
        "From when on that certificate should have been renewed, in Unix seconds.",
        labels=("registration",),
        unit="seconds",
    )
    for name, one in values.lifetimes.items():
        ends.add_metric((name,), one.not_after)
        due.add_metric((name,), warning_time(one.not_before, one.not_after))
    yield from (ends, due)


def _listen(address: str) -> socket.socket:
    if address.startswith("/"):
        path = Path(address)
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address)
        path.chmod(0o660)
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if host not in _LOOPBACK or not port.isdecimal():
            raise RefusedError(f"metrics address {address!r} must be a path, or a port of 127.0.0.1 or [::1]")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
    sock.listen(16)
    return sock
