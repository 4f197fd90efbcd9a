"""Publish the registrations to the demultiplexer: names, protocols, users and delivery; never a key.

A follower polls with the generation it has. The answer contains the changes since then, and waits until there are
some. By asking with a generation, the follower confirms that it uses it.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from handshaked.control.requests.arguments import Arguments
from handshaked.errors import RefusedError
from handshaked.model import Caller
from handshaked.registry.names import SELF_TEST_SERVER_NAME
from handshaked.registry.registration import Registration
from handshaked.registry.settings import POLICY
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.json_packets import first_that_fit

PAGE = 200
_WAIT_SECONDS = 20.0
_CONFIRM_SECONDS = 1.0
_KEPT_CHANGES = 64
_MAX_FOLLOWERS = 64
_MOST = 1 << 62

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Change:
    before: int
    changed: list[Registration]
    removed: list[int]


class RegistryFeed:
    """Answer followers, which must run as one of the users `uids`, from the newest snapshot."""

    def __init__(self, snapshot: Snapshot, uids: frozenset[int]) -> None:
        self._uids = uids
        self._snapshot = snapshot
        self._changes: deque[_Change] = deque(maxlen=_KEPT_CHANGES)
        self._confirmed: dict[str, int] = {}
        self._published = asyncio.Event()
        self._confirmation = asyncio.Event()

    async def publish(self, snapshot: Snapshot) -> None:
        """Publish `snapshot` and wait until all followers confirm it. Followers that take too long are dropped."""
        if self._confirmed:
            changed, removed = snapshot.changes_since(self._snapshot)
            self._changes.append(_Change(self._snapshot.generation, changed, removed))
        else:
            self._changes.clear()
        self._snapshot = snapshot
        self._published.set()
        self._published = asyncio.Event()
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                while any(generation < snapshot.generation for generation in self._confirmed.values()):
                    await self._confirmation.wait()
        except TimeoutError:
            self._confirmed = {
                name: generation for name, generation in self._confirmed.items() if generation >= snapshot.generation
            }

    async def follow(self, caller: Caller, arguments: Arguments) -> Result:
        """Return a page of the registrations after the id ``after``, or the changes since ``generation``."""
        if caller.uid not in self._uids:
            raise RefusedError(f"{caller} may not follow the registrations; see --demux-user")
        follower = arguments.text("follower")
        # Generations start at 1; 0 asks for all registrations.
        generation = arguments.number("generation", 0, limit=_MOST)
        after = arguments.number("after", 0, limit=_MOST)
        arguments.end()
        self._confirm(follower, generation)
        if not generation:
            return self._page(after)
        if generation == self._snapshot.generation:
            await self._wait()
        return self._since(generation)

    def _confirm(self, follower: str, generation: int) -> None:
        if follower not in self._confirmed and len(self._confirmed) >= _MAX_FOLLOWERS:
            raise RefusedError(f"too many programs follow the registrations (at most {_MAX_FOLLOWERS})")
        self._confirmed[follower] = generation
        self._confirmation.set()
        self._confirmation = asyncio.Event()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._published.wait()

    def _page(self, after: int) -> Result:
        others = (one for one in self._snapshot.registrations if one.id > after and _is_published(one))
        ordered = sorted(others, key=lambda one: one.id)
        page = first_that_fit(_shown(one) for one in ordered[:PAGE])
        return {"generation": self._snapshot.generation, "registrations": page, "more": len(ordered) > len(page)}

    def _since(self, generation: int) -> Result:
        """Return the changes since `generation`.

        If there are too many, or they are not kept any more, a null generation tells the follower to start over.
        """
        changed: dict[int, Registration] = {}
        removed: set[int] = set()
        known = generation == self._snapshot.generation
        for change in self._changes:
            known = known or change.before == generation
            if change.before >= generation:
                changed |= {one.id: one for one in change.changed}
                removed |= set(change.removed)
        if not known or len(changed) > PAGE or len(removed) > 10 * PAGE:
            return {"generation": None}
        shown = [_shown(one) for one in changed.values() if one.id not in removed and _is_published(one)]
        if len(first_that_fit(shown)) < len(shown):
            return {"generation": None}
        return {"generation": self._snapshot.generation, "registrations": shown, "removed": sorted(removed)}


def _is_published(registration: Registration) -> bool:
    return registration.server_names != (SELF_TEST_SERVER_NAME,)


def _shown(registration: Registration) -> Result:
    return {
        "id": registration.id,
        "name": registration.name,
        "owner": registration.owner,
        "server_names": registration.server_names,
        "alpns": [alpn.hex() for alpn in registration.alpns],
        "uids": sorted(registration.access.uids),
        "gids": sorted(registration.access.gids),
        "kernel": registration.access.kernel,
        **{one.name: one.type.show(getattr(registration.policy, one.name)) for one in POLICY if one.read_by == "demux"},
    }
