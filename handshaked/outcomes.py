"""What is said of each handshake when it is over: one log line, and counts. Never a secret."""

import logging
from collections import Counter

from handshaked.errors import status_text
from handshaked.model import Outcome, Request
from handshaked.registry.names import show_alpn
from handshaked.wire.family import printable

log = logging.getLogger("handshaked.handshake")


class OutcomeRecorder:
    """Logs and counts outcomes. Callable as a driver's observer."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self.counts["succeeded" if outcome.status == 0 else "failed"] += 1
        level = logging.INFO if outcome.status == 0 else logging.WARNING
        if log.isEnabledFor(level):
            log.log(level, "%s", describe(request, outcome, seconds))


def describe(request: Request, outcome: Outcome, seconds: float) -> str:
    """The outcome as ``key=value`` words; a value with spaces is quoted."""
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
        "ms": f"{seconds * 1000:.1f}",
    }
    return " ".join(f"{key}={_word(str(value))}" for key, value in fields.items() if value is not None)


def _word(value: str) -> str:
    value = printable(value, 400)
    if value and not any(mark in value for mark in ' "='):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
