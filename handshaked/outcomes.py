"""What is said of each handshake when it is over: one log line, and counts. Never a secret."""

import asyncio
import logging
import re
from collections import Counter

from handshaked.errors import status_text
from handshaked.model import Outcome, Request
from handshaked.registry.names import show_alpn
from handshaked.wire.family import printable

log = logging.getLogger("handshaked.handshake")

_LOG_SECONDS = 0.05
_LOG_LINES = 256
_PLAIN = re.compile(r"[^ \"=]+").fullmatch


class OutcomeRecorder:
    """Counts outcomes, and logs them in batches. Callable as a driver's observer; for one event loop."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._pending: list[tuple[Request, Outcome, float]] = []

    def __call__(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self.counts["failed" if outcome.status else "succeeded"] += 1
        # Many lines at a time cost a fraction of one line at a time: a handshake should not wait for its own.
        if not self._pending:
            asyncio.get_running_loop().call_later(_LOG_SECONDS, self.flush)
        self._pending.append((request, outcome, seconds))
        if len(self._pending) >= _LOG_LINES:
            self.flush()

    def flush(self) -> None:
        """Log what has been held back."""
        pending, self._pending = self._pending, []
        for request, outcome, seconds in pending:
            level = logging.WARNING if outcome.status else logging.INFO
            if log.isEnabledFor(level):
                log.log(level, "%s", describe(request, outcome, seconds))


def describe(request: Request, outcome: Outcome, seconds: float) -> str:
    """The outcome as ``key=value`` words; a value with spaces is quoted."""
    caller = "kernel" if request.caller.kernel else request.caller.uid
    words = [
        f"outcome={'failed' if outcome.status else 'ok'} role={request.role.name.lower()}"
        f" caller={caller} pid={request.caller.pid}"
    ]
    if request.peer_address is not None:
        words.append(_word("peer", request.peer_address))
    if registration := outcome.registration or request.registration:
        words.append(_word("registration", registration))
    if server_name := outcome.server_name or request.server_name:
        words.append(_word("server_name", server_name))
    if outcome.alpn is not None:
        words.append(_word("alpn", show_alpn(outcome.alpn)))
    if outcome.cipher_suite is not None:
        words.append(f"cipher={outcome.cipher_suite.name}")
    if outcome.resumed:
        words.append("resumed=yes")
    if outcome.status:
        words.append(_word("status", status_text(outcome.status)))
        if outcome.alert is not None:
            words.append(f"alert={outcome.alert.label}")
        words.append(_word("reason", outcome.reason))
    words.append(f"ms={seconds * 1000:.1f}")
    return " ".join(words)


def _word(key: str, value: str) -> str:
    value = printable(value, 400)
    if value and _PLAIN(value):
        return f"{key}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'
