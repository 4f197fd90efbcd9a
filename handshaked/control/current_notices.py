"""The notices about registrations and settings that are in use, kept in memory and said in the log once."""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from handshaked.callers.threads import ThreadPool, Threads
from handshaked.control.files.readers import contained
from handshaked.errors import DamagedError, LocalError, RefusedError, UnavailableError
from handshaked.registry.notices import Notice, credential_notices, trust_notices
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import RegistryWriter

log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Number of registrations that are examined before other tasks run."""


class CurrentNotices:
    """The notices about the registrations in `store`, after ``follow``, and about the daemon's ``settings``.

    Trust is examined in a thread from `pool`.
    """

    def __init__(self, store: RegistryWriter, pool: ThreadPool | None = None) -> None:
        self._threads = Threads(1, pool, privileged=True)
        self.settings: tuple[Notice, ...] = ()
        self._store = store
        self._examined: dict[int, Registration] = {}
        self._of: dict[int, tuple[Notice, ...]] = {}
        self._logged: set[str] = set()
        self._lock = asyncio.Lock()

    async def follow(self, snapshot: Snapshot, now: float) -> None:
        """Examine the registrations of `snapshot` that are new or changed, and log what is new at `now`."""
        async with self._lock:
            current = {one.id: one for one in snapshot.registrations if not one.internal}
            for identity in self._examined.keys() - current.keys():
                del self._examined[identity]
                self._of.pop(identity, None)
            new = sorted(one.id for one in current.values() if self._examined.get(one.id) is not one)
            for first in range(0, len(new), _AT_ONCE):
                await self._examine([current[identity] for identity in new[first : first + _AT_ONCE]])
        self.log_new(now)

    def of(self, registration: Registration, now: float) -> list[str]:
        """Return the notices about a registration at `now`, in Unix seconds."""
        return [notice.text for notice in self._of.get(registration.id, ()) if notice.is_due(now)]

    def about(self, registrations: Iterable[Registration], now: float) -> Iterator[str]:
        """Yield the notices about `registrations` at `now`, each after the name of its registration."""
        for one in registrations:
            if one.id in self._of:
                yield from (f"{one.name}: {text}" for text in self.of(one, now))

    def about_settings(self, now: float) -> list[str]:
        """Return the notices about the daemon's settings at `now`."""
        return [notice.text for notice in self.settings if notice.is_due(now)]

    def log_new(self, now: float) -> None:
        """Log the notices that are true since the last call, and those that no longer are."""
        current = {*self.about_settings(now), *self.about(self._examined.values(), now)}
        for text in sorted(current - self._logged):
            log.warning("%s", text)
        for text in sorted(self._logged - current):
            log.info("no longer: %s", text)
        self._logged = current

    async def _examine(self, registrations: list[Registration]) -> None:
        """Examine `registrations`, in the order of their ids; say so if one of them cannot be examined."""
        chains = self._store.chains(registrations[0].id, registrations[-1].id)
        for registration in registrations:
            try:
                with contained(registration.name):
                    found = list(_about_credentials(registration, chains.get(registration.id, [])))
                    if registration.policy.client_trust:
                        found += await self._about_trust(registration)
            except RefusedError as error:
                if isinstance(error, UnavailableError) and not isinstance(error, DamagedError):
                    raise  # not this registration's fault
                found = [Notice(f"the registration cannot be examined: {error}")]
            self._examined[registration.id] = registration
            self._of.pop(registration.id, None)
            if found:
                self._of[registration.id] = tuple(found)
        await asyncio.sleep(0)

    async def _about_trust(self, registration: Registration) -> list[Notice]:
        policy = registration.policy
        try:
            trust = self._store.trust(policy.client_trust)
        except LocalError:  # the registration has been replaced meanwhile
            return []
        return await self._threads.result(lambda: list(trust_notices(trust, policy.crl_grace)))


def _about_credentials(
    registration: Registration, chains: Iterable[tuple[tuple[bytes, ...], bytes | None]]
) -> Iterator[Notice]:
    for chain, ocsp in chains:
        try:
            yield from credential_notices(registration.server_names, chain, ocsp)
        except RefusedError as error:
            yield Notice(f"a credential cannot be used: {error}")
