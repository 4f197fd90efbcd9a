"""What is said of each handshake when it is over: a log line, counts, a record for who watches. Never a secret."""

import logging
import time
from collections import Counter
from typing import Any

from handshaked.errors import status_text
from handshaked.model import Outcome, Request
from handshaked.registry.names import show_alpn
from handshaked.selftest import is_self_test
from handshaked.tally import Tally
from handshaked.wire.family import printable

log = logging.getLogger("handshaked.handshake")

MAX_RECORDS = 128
MAX_COUNTS = 500
Record = dict[str, Any]


class OutcomeRecorder:
    """Logs and counts outcomes. Callable as a driver's observer, many thousand times a second.

    ``take`` gives what has come since, for the parent: counts of all, records of the first MAX_RECORDS.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._tally = Tally()
        self._fresh: list[tuple[float, Request, Outcome, float]] = []
        self._left_out = 0

    def __call__(self, request: Request, outcome: Outcome, seconds: float) -> None:
        if is_self_test(request):
            log.debug("self-test: %s", "ok" if outcome.status == 0 else outcome.reason)
            return
        self.counts["succeeded" if outcome.status == 0 else "failed"] += 1
        self._tally.add(request, outcome, seconds)
        if len(self._fresh) < MAX_RECORDS:
            self._fresh.append((time.time(), request, outcome, seconds))
        else:
            self._left_out += 1
        level = logging.INFO if outcome.status == 0 else logging.WARNING
        if log.isEnabledFor(level):
            fields = _fields(request, outcome, seconds)
            log.log(level, "%s", _line(fields), extra={"fields": fields})

    @property
    def pending(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._tally.handshakes)

    def take(self) -> dict[str, Any]:
        """What has come since the last time, or a part of it if there is much."""
        taken = {
            "tally": self._tally.take(MAX_COUNTS),
            "records": [
                {"time": when, **_fields(request, outcome, seconds)} for when, request, outcome, seconds in self._fresh
            ],
            "left_out": self._left_out,
        }
        self._fresh = []
        self._left_out = 0
        return taken


def describe(request: Request, outcome: Outcome, seconds: float) -> str:
    """The outcome as ``key=value`` words; a value with spaces is quoted."""
    return _line(_fields(request, outcome, seconds))


def _fields(request: Request, outcome: Outcome, seconds: float) -> Record:
    fields: dict[str, object] = {
        "outcome": "ok" if outcome.status == 0 else "failed",
        "role": request.role.name.lower(),
        "caller": "kernel" if request.caller.kernel else request.caller.uid,
        "pid": request.caller.pid,
        "peer": request.peer_address,
        "registration": outcome.registration or request.registration,
        "server_name": outcome.server_name or request.server_name,
        "alpn": None if outcome.alpn is None else show_alpn(outcome.alpn),
        "cipher": None if outcome.cipher_suite is None else outcome.cipher_suite.name,
        "resumed": outcome.resumed or None,
        "status": None if outcome.status == 0 else status_text(outcome.status),
        "alert": None if outcome.alert is None else outcome.alert.label,
        "reason": outcome.reason or None,
        "ms": round(seconds * 1000, 1),
    }
    return {
        key: printable(value, 400) if isinstance(value, str) else value
        for key, value in fields.items()
        if value is not None
    }


def _line(fields: Record) -> str:
    return " ".join(f"{key}={_word(str(value))}" for key, value in fields.items())


def _word(value: str) -> str:
    if value and not any(mark in value for mark in ' "='):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
