"""The commands that observe the daemon: ``status``, ``recent``, ``monitor``, ``top``."""

import argparse
import json
import sys
import time
from collections import Counter, deque
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from handshaked.cli.output import Result, ask, console, print_fields, print_json, print_warnings, urgency
from handshaked.configuration.handshaked_toml import OWN_NAMESPACE
from handshaked.control.client import ControlClient
from handshaked.registry.expiry import duration, expires, expiry
from handshaked.reporting.counts import BUCKETS, HandshakeCounts, Latency
from handshaked.workers.watchdog import NOT_YET

_BARS = " ▁▂▃▄▅▆▇█"
_HISTORY = 60
_ROWS = 8


def status(arguments: argparse.Namespace) -> int:
    """Run ``status``; return 1 if there is a problem."""
    result = ask(arguments, "status", {})
    if arguments.json:
        print_json(result)
    else:
        _print_status(result)
    return 0 if _healthy(result) else 1


def recent(arguments: argparse.Namespace) -> int:
    """Run ``recent``."""
    result = ask(arguments, "recent", {"limit": arguments.limit, **_filter(arguments)})
    if arguments.json:
        print_json(result)
    else:
        for record in result["handshakes"]:
            _print_record(record)
    return 0


def monitor(arguments: argparse.Namespace) -> int:
    """Run ``monitor``: print handshakes as they end, until interrupted or until `count` of them have ended."""
    left = arguments.count
    with ControlClient(arguments.socket) as client:
        for batch in client.subscribe(_filter(arguments)):
            if batch["lost"]:
                print(f"handshakectl: {batch['lost']} events were lost: the reader is too slow", file=sys.stderr)
            for event in batch["events"]:
                if arguments.json:
                    print(json.dumps(event), flush=True)
                else:
                    _print_record(event)
                left -= event["type"] == "handshake"
                if arguments.count and left <= 0:
                    return 0
    return 0


def top(arguments: argparse.Namespace) -> int:
    """Run ``top``: show rates, latencies and failures at intervals until interrupted, or the totals once."""
    if arguments.once or not console.is_terminal:
        counts = HandshakeCounts()
        counts.merge(ask(arguments, "statistics", {}))
        _print_once(counts, json_wanted=arguments.json)
        return 0
    rates: deque[int] = deque([0], maxlen=_HISTORY)
    before = _statistics(arguments)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(arguments.interval)
            now = _statistics(arguments)
            new = _difference(now, before)
            before = now
            rates.append(sum(new.handshakes.values()))
            live.update(_screen(new, rates, arguments.interval), refresh=True)


def _healthy(result: Result) -> bool:
    return (
        not result["problems"]
        and result["self_test"] in ("ok", NOT_YET)
        and all(worker["answers"] for worker in result["workers"])
        and all(one["not_after"] > time.time() for one in result["expiring"])
    )


def _print_status(result: Result) -> None:
    workers = result["workers"]
    answering = sum(worker["answers"] for worker in workers)
    in_flight = sum(worker.get("in_flight", 0) for worker in workers)
    good, bad = "green", "bold red"
    print_fields(
        {
            "handshaked": f"{result['version']}, pid {result['pid']}, up {duration(result['uptime'])}",
            "self-test": result["self_test"],
            "registrations": result["registrations"],
            "workers": f"{answering} of {len(workers)} answer, {result['worker_restarts']} restarts",
            "handshakes": f"{result['handshakes']['succeeded']} ok, {result['handshakes']['failed']} failed,"
            f" {in_flight} in flight",
            "kernel": kernel_state(workers),
            "bus": result["bus"],
        },
        {
            "self-test": good if result["self_test"] == "ok" else "" if result["self_test"] == NOT_YET else bad,
            "workers": bad if answering < len(workers) else "",
        },
    )
    now = time.time()
    for one in result["expiring"]:
        words = f"{one['registration']}: certificate {one['subject']} {expires(one['not_after'], now)}"
        console.print(Text(words, style=urgency(expiry(one["not_before"], one["not_after"], now))))
    print_warnings(result["warnings"])
    for problem in result["problems"]:
        console.print(Text(problem, style=bad))


def kernel_state(workers: list[Result]) -> str:
    """Summarize the state of kernel upcalls over all workers, by network namespace where it is another one."""
    sources: dict[str, list[str]] = {}
    for worker in workers:
        for source in worker.get("kernel") or ():
            sources.setdefault(source["network_namespace"], []).append(source["state"])
    if not sources:
        return "upcalls are off"
    said = []
    for namespace, states in sources.items():
        serving = states.count("serving")
        waiting = sorted({state for state in states if state != "serving"})
        words = "; ".join([f"{serving} of {len(workers)} workers accept upcalls"] * bool(serving) + waiting)
        said.append(words if namespace == OWN_NAMESPACE else f"{namespace}: {words}")
    return ", ".join(said)


def _filter(arguments: argparse.Namespace) -> dict[str, Any]:
    wanted = {
        "outcome": "failed" if arguments.failed else None,
        "registration": arguments.registration,
        "role": arguments.role,
        "server_name": arguments.server_name,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _print_record(event: Result) -> None:
    if event["type"] != "handshake":
        rest = " ".join(f"{key}={value}" for key, value in event.items() if key != "type")
        console.print(Text(f"{event['type']}: {rest}", style="cyan"))
        return
    failed = event["outcome"] != "ok"
    when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    line = Text(f"{when} ", style="dim")
    line.append("FAILED " if failed else "ok     ", style="bold red" if failed else "green")
    line.append(f"{event['role']:6} {event.get('server_name') or '-'} {event.get('alpn') or '-'}", style="default")
    line.append(f" {event.get('registration') or '-'} {event['ms']:.1f} ms", style="default")
    if failed:
        line.append(f"  {event.get('alert') or event.get('status')}: {event.get('reason')}", style="red")
    console.print(line)


def _statistics(arguments: argparse.Namespace) -> HandshakeCounts:
    counts = HandshakeCounts()
    counts.merge(ask(arguments, "statistics", {}))
    return counts


def _difference(now: HandshakeCounts, before: HandshakeCounts) -> HandshakeCounts:
    new = HandshakeCounts()
    new.handshakes = Counter({key: n - before.handshakes[key] for key, n in now.handshakes.items()})
    for kind, latency in now.latencies.items():
        old = before.latencies.get(kind, Latency([0] * (len(BUCKETS) + 1)))
        counts = [a - b for a, b in zip(latency.counts, old.counts, strict=True)]
        new.latencies[kind] = Latency(counts, latency.total - old.total)
    return new


def _screen(counts: HandshakeCounts, rates: deque[int], interval: float) -> RenderableType:
    total = _all(counts)
    rate = rates[-1] / interval
    head = Text(f"{rate:.0f} handshakes/s  {counts.failed / interval:.0f} failed/s  ", style="bold")
    head.append("  ".join(f"p{p} {total.quantile(p / 100) * 1000:.1f} ms" for p in (50, 90, 99)), style="default")
    return Group(head, Text(chart(rates), style="green"), *_tables(counts))


def _tables(counts: HandshakeCounts) -> list[Table]:
    reasons, registrations, failing = _breakdown(counts)
    tables = []
    for title, rows in (("failure", reasons), ("registration", registrations), ("failing registration", failing)):
        table = Table(title, "count", box=None, pad_edge=False)
        for name, count in rows.most_common(_ROWS):
            table.add_row(Text(name or "-"), str(count))
        tables.append(table)
    return tables


def _print_once(counts: HandshakeCounts, *, json_wanted: bool) -> None:
    reasons, registrations, failing = _breakdown(counts)
    latency = _all(counts)
    result = {
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "latency_ms": {f"p{p}": round(latency.quantile(p / 100) * 1000, 3) for p in (50, 90, 99)},
        "failures_by_reason": dict(reasons.most_common()),
        "handshakes_by_registration": dict(registrations.most_common()),
        "failures_by_registration": dict(failing.most_common()),
    }
    if json_wanted:
        print_json(result)
        return
    for name, value in result.items():
        shown = ", ".join(f"{key or '-'} {n}" for key, n in value.items()) if isinstance(value, dict) else value
        print(f"{name.replace('_', ' ') + ':':28}{'-' if shown == '' else shown}")


def _breakdown(counts: HandshakeCounts) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Return failures by reason, handshakes by registration, and failures by registration."""
    reasons: Counter[str] = Counter()
    registrations: Counter[str] = Counter()
    failing: Counter[str] = Counter()
    for (outcome, _, _, registration), count in counts.handshakes.items():
        registrations[registration] += count
        if outcome != "ok" and count:
            reasons[outcome] += count
            failing[registration] += count
    return reasons, +registrations, failing


def _all(counts: HandshakeCounts) -> Latency:
    total = Latency([0] * (len(BUCKETS) + 1))
    for latency in counts.latencies.values():
        total.counts = [a + b for a, b in zip(total.counts, latency.counts, strict=True)]
        total.total += latency.total
    return total


def chart(values: deque[int]) -> str:
    """Return `values` as a row of bars, the highest as high as the line."""
    highest = max(*values, 1) if len(values) > 1 else max(values[0], 1)
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // highest)] for value in values)
