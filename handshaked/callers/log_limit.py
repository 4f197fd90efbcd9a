"""A limit on the log lines that each caller can cause."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from handshaked.model import Caller

log = logging.getLogger(__name__)

LINES = 1000
SECONDS = 10.0


class LogLimit:
    """Allows `lines` in `seconds` for each caller, then logs how many were dropped. For one event loop.

    A program without asyncio passes `call_later`, which takes seconds and a function.
    """

    def __init__(
        self,
        lines: int = LINES,
        seconds: float = SECONDS,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._lines = lines
        self._seconds = seconds
        self._call_later = call_later
        self._asked: Counter[str] = Counter()

    def allows(self, who: Caller | str) -> bool:
        """Count one line caused by `who`; return whether to log it."""
        if not self._asked:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            call_later(self._seconds, self.report_dropped)
        name = f"uid {who.account}" if isinstance(who, Caller) and not who.kernel else str(who)
        self._asked[name] += 1
        return self._asked[name] <= self._lines

    def report_dropped(self) -> None:
        """Log how many lines were dropped, and start counting again."""
        asked, self._asked = self._asked, Counter()
        for name, lines in asked.items():
            if lines > self._lines:
                log.warning("... and %d more lines caused by %s were dropped", lines - self._lines, name)
