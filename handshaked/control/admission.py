"""How many may be in at a time, so that nobody keeps all others out."""

from collections import Counter

from handshaked.control.authority import is_administrator
from handshaked.model import Caller


class Admission:
    """Places for `total` at a time, `each` of one user; the last `reserve` are for administrators."""

    def __init__(self, total: int, each: int, reserve: int) -> None:
        self._total = total
        self._each = each
        self._reserve = reserve
        self._inside: Counter[int] = Counter()

    def admit(self, caller: Caller) -> bool:
        """Whether there is a place for `caller`, who has it from now on."""
        room = self._total - (0 if is_administrator(caller) else self._reserve)
        if self._inside[caller.uid] >= self._each or self._inside.total() >= room:
            return False
        self._inside[caller.uid] += 1
        return True

    def leave(self, caller: Caller) -> None:
        """Give a place of `caller` back."""
        self._inside[caller.uid] -= 1
        if not self._inside[caller.uid]:
            del self._inside[caller.uid]
