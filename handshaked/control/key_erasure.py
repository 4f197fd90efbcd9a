"""Erase keys of removed registrations as soon as no handshake can use them."""

import asyncio
import logging
from collections.abc import Callable

from handshaked.errors import UnavailableError
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import RegistryWriter

log = logging.getLogger(__name__)

LONGEST_HANDSHAKE = 120.0
"""Longest time that a handshake can keep a snapshot, in seconds: twice the longest timeout, for safety."""


class KeyErasure:
    """Erase the credentials in `store` that have been unused for `seconds`.

    This happens only if `up_to_date` confirms that all workers use the snapshot that `snapshot` returned `seconds` ago.
    Afterwards `forget` makes the workers drop the keys that they cache.
    """

    def __init__(
        self,
        store: RegistryWriter,
        snapshot: Callable[[], Snapshot],
        up_to_date: Callable[[Snapshot], bool],
        forget: Callable[[], object],
        seconds: float = LONGEST_HANDSHAKE,
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._up_to_date = up_to_date
        self._forget = forget
        self._seconds = seconds

    async def run(self) -> None:
        """Run until cancelled."""
        unfinished: set[int] = set()
        while True:
            try:
                snapshot, unused = self._snapshot(), unfinished.union(self._store.unused())
                await asyncio.sleep(self._seconds)
                if unused and self._up_to_date(snapshot):
                    unfinished = unused
                    self._store.erase(unused)
                    unfinished = set()
                    self._forget()
                    log.info("erased %d unregistered keys", len(unused))
            except UnavailableError as error:
                log.error("unregistered keys cannot be erased yet: %s", error)
                await asyncio.sleep(self._seconds)
