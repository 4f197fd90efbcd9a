"""A resource of a process that its callers share, fairly for any number of them.

A caller may hold an eighth of what is still free (dynamic thresholds: Choudhury, Hahne 1998). Callers that take all
they can get, one after the other, leave eight ninths each: nobody can use it up, twenty of them leave a tenth, and
nobody is limited while there is plenty.
"""

import os
from collections.abc import Iterable

_PARTS = 8


class Pool:
    """A resource of `total` units, of which `reserve` are for privileged users.

    They are root, this process's user, and `privileged`; only their quota and `total` limit them.
    """

    def __init__(self, total: int, reserve: int = 0, privileged: Iterable[int] = ()) -> None:
        self.used = 0
        self._total = total
        self._reserve = reserve
        self._privileged = {0, os.geteuid(), *privileged}

    def room(self, uid: int, held: int) -> int:
        """Return how much more the user `uid`, who holds `held`, may take."""
        if uid in self._privileged:
            return self._total - self.used
        free = self._total - self._reserve - self.used
        return -(-free // _PARTS) - held


class Quota:
    """The share of `pool` that the user `uid` holds: ``used``, at most `limit`."""

    def __init__(self, pool: Pool, uid: int, limit: int) -> None:
        self.used = 0
        self._pool = pool
        self._uid = uid
        self._limit = limit

    def take(self, amount: int = 1) -> bool:
        """Take `amount`; return False if there is not as much for this user."""
        if amount > self._limit - self.used or amount > self._pool.room(self._uid, self.used):
            return False
        self.add(amount)
        return True

    def add(self, amount: int) -> None:
        """Take `amount`, even beyond the limits."""
        self.used += amount
        self._pool.used += amount

    def release(self, amount: int = 1) -> None:
        """Give `amount` back."""
        self.add(-amount)

    @property
    def exceeded(self) -> bool:
        """True if the user holds more than it may."""
        return self.used > self._limit or self._pool.room(self._uid, self.used) < 0
