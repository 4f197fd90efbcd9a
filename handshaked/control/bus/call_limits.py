"""Limits on concurrent D-Bus calls, in total and per user. Some are reserved for administrators."""

from collections import Counter

from handshaked.control.bus.interface import CallError
from handshaked.control.requests.permissions import is_administrator
from handshaked.model import Caller

MAX_CALLS = 256
MAX_CALLS_PER_USER = 16
RESERVED_CALLS = 32
"""Of ``MAX_CALLS``, only for administrators."""


class CallLimits:
    """Count the calls in progress: a call that waits for polkit can take minutes, and must not keep others out."""

    def __init__(self) -> None:
        self._calls: Counter[int] = Counter()

    def acquire(self, caller: Caller) -> None:
        """Count a call of `caller`; CallError if there are too many."""
        if self._calls[caller.uid] >= MAX_CALLS_PER_USER:
            raise CallError("LimitsExceeded", f"uid {caller.uid} has too many calls in progress; try again later")
        if self._calls.total() >= MAX_CALLS - (0 if is_administrator(caller) else RESERVED_CALLS):
            raise CallError("LimitsExceeded", "too many calls in progress; try again later")
        self._calls[caller.uid] += 1

    def release(self, caller: Caller) -> None:
        """Stop counting a call of `caller`."""
        self._calls[caller.uid] -= 1
        self._calls += Counter()  # drops the users without calls
