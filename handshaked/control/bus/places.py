"""Places for callers: so many in total and for each user, some of them only for root and the daemon's user."""

from handshaked.callers.pool import Pool, Quota
from handshaked.model import Caller


class Places:
    """`total` places, of which a user gets at most `per_user`, and never more than are left for others.

    `reserve` of them are for root and the daemon's user.
    """

    def __init__(self, total: int, reserve: int, per_user: int) -> None:
        self._pool = Pool(total, reserve)
        self._per_user = per_user
        self._quotas: dict[int, Quota] = {}

    def take(self, caller: Caller) -> bool:
        """Take a place for `caller`; return False if there is none."""
        quota = self._quotas.get(caller.account) or Quota(self._pool, caller.account, self._per_user)
        if not quota.take():
            return False
        self._quotas[caller.account] = quota
        return True

    def release(self, caller: Caller) -> None:
        """Give a place of `caller` back."""
        quota = self._quotas[caller.account]
        quota.release()
        if not quota.used:
            del self._quotas[caller.account]
