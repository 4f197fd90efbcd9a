"""Erases keys that are not registered any more, as soon as no handshake can have them pinned."""

import asyncio
import logging
from collections.abc import Callable

from handshaked.errors import UnavailableError
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import RegistryWriter

log = logging.getLogger(__name__)

LONGEST_HANDSHAKE = 120.0
"""A snapshot that a handshake pinned lives no longer, in seconds: the longest timeout, and as much again for safety."""


class KeyErasure:
    """Looks every `seconds` what `store` holds that nothing uses; what was so the last time, too, is erased.

    Not before `up_to_date` says that all workers have taken over the snapshot of that time, which `snapshot` gives.
    Then `forget` has workers drop the keys they keep at hand.
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
        """Go on until cancelled."""
        while True:
            try:
                snapshot, unused = self._snapshot(), self._store.unused()
                await asyncio.sleep(self._seconds)
                if unused and self._up_to_date(snapshot):
                    self._store.erase(unused)
                    self._forget()
                    log.info("erased %d keys that are not registered any more", len(unused))
            except UnavailableError as error:
                log.error("unregistered keys cannot be erased yet: %s", error)
                await asyncio.sleep(self._seconds)
