"""Reports of finished handshakes: a log line, counts, a record for subscribers. None of them contains a secret."""

import asyncio
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from handshaked.callers.log_limit import LogLimit
from handshaked.errors import status_text
from handshaked.model import Outcome, Request
from handshaked.registry.names import SELF_TEST_REGISTRATION, SELF_TEST_SERVER_NAME, show_alpn
from handshaked.reporting.counts import HandshakeCounts
from handshaked.wire.fields import printable

log = logging.getLogger("handshaked.handshake")

_BATCH_SECONDS = 0.05
_BATCH = 256
_RECORDS = 32
_UID = os.geteuid()
_PLAIN = re.compile(r"[^ \"=]+").fullmatch

Message = dict[str, Any]
_Ended = tuple[float, Request, Outcome, float]


class OutcomeRecorder:
    """Counts outcomes, and logs and reports them in batches. Callable as a driver's observer; for one event loop.

    `report` is called with the counts of each batch and the records of its first _RECORDS, as a message to the parent.
    """

    def __init__(self, log_limit: LogLimit, report: Callable[[Message], object] = lambda message: None) -> None:
        self.counts: Counter[str] = Counter()
        self._log_limit = log_limit
        self._report = report
        self._pending: list[_Ended] = []

    def __call__(self, request: Request, outcome: Outcome, seconds: float) -> None:
        if _is_self_test(request):
            log.debug("self-test: %s", outcome.reason or "ok")
            return
        self.counts["failed" if outcome.status else "succeeded"] += 1
        # A batch costs a fraction of single lines: a handshake should not wait for its own log line.
        if not self._pending:
            asyncio.get_running_loop().call_later(_BATCH_SECONDS, self.flush)
        self._pending.append((time.time(), request, outcome, seconds))
        if len(self._pending) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Log and report the pending outcomes."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        counts = HandshakeCounts()
        for _, request, outcome, seconds in pending:
            counts.add(request, outcome, seconds)
            level = logging.WARNING if outcome.status else logging.INFO
            # A success costs its caller work; a failure costs nothing, so failures are limited.
            if log.isEnabledFor(level) and (not outcome.status or self._log_limit.allows(request.caller)):
                fields = partial(fields_of, request, outcome, seconds)
                log.log(level, "%s", describe(request, outcome, seconds), extra={"fields": fields})
        records = [
            {"time": when, **fields_of(request, outcome, seconds)}
            for when, request, outcome, seconds in pending[:_RECORDS]
        ]
        self._report({"records": records, "left_out": len(pending) - len(records), "counts": counts.take(_BATCH)})


def fields_of(request: Request, outcome: Outcome, seconds: float) -> Message:
    """Return the outcome as fields for programs, numbers and text; unknown ones are left out."""
    fields: dict[str, object] = {
        "outcome": "failed" if outcome.status else "ok",
        "role": request.role.name.lower(),
        "caller": "kernel" if request.caller.kernel else request.caller.uid,
        "pid": request.caller.pid,
        "peer": request.peer_address,
        "registration": outcome.registration or request.registration,
        "server_name": outcome.server_name or request.server_name,
        "alpn": None if outcome.alpn is None else show_alpn(outcome.alpn),
        "cipher": None if outcome.cipher_suite is None else outcome.cipher_suite.name,
        "resumed": outcome.resumed or None,
        "psk": _psk(outcome),
        "peer_key": _peer_key(outcome),
        "tags": ",".join(outcome.tags) or None,
        "status": status_text(outcome.status) if outcome.status else None,
        "alert": None if outcome.alert is None else outcome.alert.label,
        "reason": outcome.reason or None,
        "ms": round(seconds * 1000, 1),
    }
    return {
        key: printable(value, 400) if isinstance(value, str) else value
        for key, value in fields.items()
        if value is not None
    }


def describe(request: Request, outcome: Outcome, seconds: float) -> str:
    """Return the outcome as ``key=value`` words; a value with spaces is quoted."""
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
    if (identity := _psk(outcome)) is not None:
        words.append(_word("psk", identity))
    if (serial := _peer_key(outcome)) is not None:
        words.append(f"peer_key={serial}")
    if outcome.tags:
        words.append(_word("tags", ",".join(outcome.tags)))
    if outcome.status:
        words.append(_word("status", status_text(outcome.status)))
        if outcome.alert is not None:
            words.append(f"alert={outcome.alert.label}")
        words.append(_word("reason", outcome.reason))
    words.append(f"ms={seconds * 1000:.1f}")
    return " ".join(words)


def _psk(outcome: Outcome) -> str | None:
    """Return the identity of the PSK, which is not secret: it names the peers."""
    return None if outcome.psk_identity is None else outcome.psk_identity.decode(errors="backslashreplace")


def _peer_key(outcome: Outcome) -> int | None:
    """Return the serial of the key by which the consumer in the kernel knows the peer; -1 stands for none."""
    return next((serial for serial in outcome.peer_keys if serial > 0), None)


def _word(key: str, value: str) -> str:
    value = printable(value, 400)
    if value and _PLAIN(value):
        return f"{key}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def _is_self_test(request: Request) -> bool:
    """Return whether the daemon's own self-test made `request`."""
    return request.caller.uid == _UID and (
        request.registration == SELF_TEST_REGISTRATION or request.server_name == SELF_TEST_SERVER_NAME
    )
