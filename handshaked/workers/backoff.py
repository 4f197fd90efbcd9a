"""The times at which workers that have ended are restarted, and the limit after which they are not."""

_FIRST = 0.1
_LONGEST = 1.0
_LONGEST_AT_START = 10.0
_STEADY = 30.0
MAX_FAILED_STARTS = 5


class Backoff:
    """The pauses before a worker is restarted, in seconds.

    A worker that has served returns within a second, whoever kills it. One that fails to start is tried less and less
    often.
    """

    def __init__(self) -> None:
        self._next = _FIRST

    def after_service(self, ran: float) -> float:
        """Return the pause after a worker that ran for `ran` seconds and did not fail by itself."""
        if ran > _STEADY:
            self._next = _FIRST
        pause = min(self._next, _LONGEST)
        self._next = min(2 * pause, _LONGEST)
        return pause

    def after_failed_start(self) -> float:
        """Return the pause after a worker that could not start."""
        pause = self._next
        self._next = min(2 * pause, _LONGEST_AT_START)
        return pause
