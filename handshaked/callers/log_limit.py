"""How much each caller may have the log say."""

import asyncio
import logging
from collections import Counter

from handshaked.model import Caller

log = logging.getLogger(__name__)

LINES = 1000
SECONDS = 10.0


class LogLimit:
    """Allows `lines` in `seconds` for each caller. When they are over it tells how many were left out.

    For one event loop.
    """

    def __init__(self, lines: int = LINES, seconds: float = SECONDS) -> None:
        self._lines = lines
        self._seconds = seconds
        self._asked: Counter[str] = Counter()

    def allows(self, who: Caller | str) -> bool:
        """Whether there may be one more line that `who` causes."""
        if not self._asked:
            asyncio.get_running_loop().call_later(self._seconds, self.tell)
        name = str(who)
        self._asked[name] += 1
        return self._asked[name] <= self._lines

    def tell(self) -> None:
        """Log how much was left out, and count anew."""
        asked, self._asked = self._asked, Counter()
        for name, lines in asked.items():
            if lines > self._lines:
                log.warning("... and %d more lines that %s caused were left out", lines - self._lines, name)
