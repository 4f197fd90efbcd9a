"""Keeps registrations in step with files: credentials that are renewed, drop-ins that come, change and go.

Files are compared by content. Whatever cannot be used leaves the old in place and becomes a problem, by the name of
what it keeps from changing, until it is mended. Handshakes under way are not disturbed: the store gets new rows.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from handshaked.control.dropins import DropIns, Problem, read_drop_ins
from handshaked.control.loading import open_again, paths_of, resolved
from handshaked.control.policies import TrustSource, open_trust_again
from handshaked.control.request import check_all_valid
from handshaked.control.tasks import Tasks
from handshaked.control.watch import Watch
from handshaked.errors import RefusedError, UnavailableError
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import ConflictError, NewRegistration, NewTrust, Source, Store

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""Renewal tools write several files: wait for the end of a burst."""
CHECK_SECONDS = 600.0
"""All files are looked at this often besides, for file systems that report no changes."""
RETRY_SECONDS = 20.0
"""What has a problem is looked at this often."""


class Renewal:
    """Follows the files of the registrations in `store`, and the drop-ins in `directory`.

    `changed` makes a change of the store known and returns the new snapshot.
    """

    def __init__(self, store: Store, directory: Path, changed: Callable[[], Awaitable[Snapshot]]) -> None:
        self.problems: dict[str, str] = {}
        self._store = store
        self._directory = directory
        self._changed = changed
        self._snapshot = Snapshot()
        self._followed: dict[int, tuple[Registration, _Files]] = {}
        self._users: dict[str, set[int]] = {}
        self._seen: dict[int, bytes] = {}
        self._watch: Watch | None = None
        self._lock = asyncio.Lock()
        self._tasks = Tasks("the renewal of files")

    def start(self) -> None:
        """Watch from now on."""
        self._begin_to_watch()
        self._tasks.keep(self._check_regularly())

    def _begin_to_watch(self) -> None:
        try:
            self._watch = Watch(self._on_change, QUIET_SECONDS)
        except OSError as error:
            self._note("inotify(7)", f"files cannot be watched, they are looked at every {CHECK_SECONDS:g} s: {error}")
        else:
            self._mended("inotify(7)")

    async def close(self) -> None:
        """Watch no more."""
        await self._tasks.end()
        if self._watch is not None:
            self._watch.close()

    def follow(self, snapshot: Snapshot) -> None:
        """The registrations are those of `snapshot` now."""
        self._snapshot = snapshot
        current = {registration.id: registration for registration in snapshot.registrations}
        for identity in self._followed.keys() - current.keys():
            self._drop(identity)
        fresh = [one for one in current.values() if self._followed.get(one.id, (None,))[0] is not one]
        identities = [one.id for one in fresh] or [0]
        sources = self._store.sources(min(identities), max(identities))
        for registration in fresh:
            self._drop(registration.id)
            files = self._files_of(registration, sources.get(registration.id, ()))
            self._followed[registration.id] = (registration, files)
            for path in files.resolved:
                self._users.setdefault(path, set()).add(registration.id)
        self._follow_paths()
        if fresh:
            # What was handed over may have been replaced before it was watched; and if it cannot be read again,
            # people should know before it has to be.
            self._tasks.keep(self.check([registration.id for registration in fresh]))

    async def reload(self) -> tuple[list[str], list[str]]:
        """Look at all files: the names of what was renewed, added, changed or removed, and what is wrong, in words."""
        async with self._lock:
            changed = await self._read_drop_ins()
            changed += await self._renew(list(self._followed))
            self._follow_paths()
            return changed, list(self.problems.values())

    async def check(self, identities: Iterable[int]) -> None:
        """Look at the files of some registrations."""
        async with self._lock:
            await self._renew(identities)

    def _on_change(self, paths: set[str]) -> None:
        if any(path.startswith(f"{self._directory}/") for path in paths):
            self._tasks.keep(self._check_drop_ins())
        identities = {identity for path in paths for identity in self._users.get(path, ())}
        if identities:
            self._tasks.keep(self.check(identities))

    async def _check_drop_ins(self) -> None:
        async with self._lock:
            await self._read_drop_ins()

    async def _check_regularly(self) -> None:
        while True:
            await self.reload()
            for _ in range(int(CHECK_SECONDS / RETRY_SECONDS)):
                await asyncio.sleep(RETRY_SECONDS)
                if self.problems:
                    await self._retry()

    async def _retry(self) -> None:
        """Look again at what had a problem, which may have passed: a full disk, a clock that was wrong."""
        if self._watch is None:
            self._begin_to_watch()
            self._follow_paths()
        async with self._lock:
            await self._read_drop_ins()
            await self._renew([id_ for id_, (one, _) in self._followed.items() if one.name in self.problems])

    async def _renew(self, identities: Iterable[int]) -> list[str]:
        renewed = []
        for identity in identities:
            await asyncio.sleep(0)  # there may be many, and others wait to be answered
            if identity in self._followed and self._renew_one(*self._followed[identity]):
                renewed.append(self._followed[identity][0].name)
        if renewed:
            log.info("renewed the credentials of %s", ", ".join(renewed))
            await self._changed()
        return renewed

    def _files_of(self, registration: Registration, sources: tuple[Source, ...]) -> "_Files":
        followed = tuple(one for one in sources if paths_of(one))
        trust = registration.policy.client_trust
        return _Files(followed, TrustSource(*self._store.trust_paths(trust)) if trust else TrustSource())

    def _renew_one(self, registration: Registration, files: "_Files") -> bool:
        """Whether `registration` has other credentials, or other trust in client certificates, now."""
        if not files.paths:
            return False
        try:
            seen = files.digest()
            if self._seen.get(registration.id) == seen:
                self._mended(registration.name)
                return False
            renewed = self._renew_credentials(registration, files.sources)
            renewed = self._renew_trust(registration, files.trust) or renewed
        except (OSError, RefusedError) as error:
            words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            self._note(registration.name, f"{registration.name}: {words}; the old credential stays")
            return False
        self._seen[registration.id] = seen
        self._mended(registration.name)
        return renewed

    def _renew_credentials(self, registration: Registration, sources: tuple[Source, ...]) -> bool:
        if not sources:
            return False
        loaded = [open_again(source, registration.owner) for source in sources]
        old = [(one.reference.leaf_digest, one.chain_digest) for one in self._store.details(registration)]
        if [(one.leaf_digest, one.chain_digest) for one in loaded] == old:
            return False
        check_all_valid(loaded)
        self._store.replace_credentials(registration, zip(loaded, sources, strict=True))
        return True

    def _renew_trust(self, registration: Registration, source: TrustSource) -> bool:
        trust = open_trust_again(source, registration.owner)
        if trust is None or (trust.anchors, trust.revocations) == self._store.trust(registration.policy.client_trust):
            return False
        self._store.replace_trust(registration, trust)
        return True

    async def _read_drop_ins(self) -> list[str]:
        found = read_drop_ins(self._directory)
        current = {one.name: one for one in self._snapshot.registrations}
        wanted = {}
        for name, (new, where) in found.wanted.items():
            old = current.get(name)
            if old is not None and not old.origin:
                reason = f"registration {name!r} exists, made by a command of uid {old.owner}; unregister it first"
                found.problems.append(Problem(where, reason, name))
            elif old is None or not self._same(old, new):
                wanted[name] = new
        gone = [one.name for one in current.values() if one.origin and self._is_gone(one, found)]
        changed = self._exchange(gone, wanted, found)
        self._note_all(found)
        if changed:
            log.info("drop-in files changed %s", ", ".join(changed))
            await self._changed()
        return changed

    def _exchange(self, gone: list[str], wanted: dict[str, NewRegistration], found: DropIns) -> list[str]:
        """Put `wanted` into the store, except what cannot be: that becomes a problem."""
        while gone or wanted:
            try:
                self._store.exchange(gone, wanted.values())
            except ConflictError as error:
                del wanted[error.name]
                found.problems.append(Problem(found.wanted[error.name][1], str(error), error.name))
            except UnavailableError as error:
                found.problems.append(Problem(str(self._directory), str(error)))
                return []
            else:
                break
        return [*gone, *wanted]

    def _is_gone(self, registration: Registration, found: DropIns) -> bool:
        stays = {problem.name for problem in found.problems} | found.wanted.keys()
        return found.complete and registration.name not in stays and registration.origin not in found.unread

    def _same(self, old: Registration, new: NewRegistration) -> bool:
        details = self._store.details(old)
        return (
            (old.owner, old.server_names, old.alpns, old.access, old.origin)
            == (new.owner, new.server_names, new.alpns, new.access, new.origin)
            and replace(old.policy, client_trust=0) == new.policy
            and self._same_trust(old, new.client_trust)
            and [one.source for one in details] == [source for _, source in new.credentials]
            and [one.chain_digest for one in details] == [one.chain_digest for one, _ in new.credentials]
        )

    def _same_trust(self, old: Registration, new: NewTrust | None) -> bool:
        identity = old.policy.client_trust
        if new is None or identity == 0:
            return new is None and identity == 0
        return self._store.trust(identity) == (new.anchors, new.revocations)

    def _note_all(self, found: DropIns) -> None:
        """Problems with drop-ins stand under their places, which begin with a slash as no name does."""
        new = {f"/{problem.where}": str(problem) for problem in found.problems}
        for key in [key for key in self.problems if key.startswith("/") and key not in new]:
            self._mended(key)
        for key, words in new.items():
            self._note(key, words)

    def _note(self, key: str, words: str) -> None:
        if self.problems.get(key) != words:
            log.error("%s", words)
            self.problems[key] = words

    def _mended(self, key: str) -> None:
        words = self.problems.pop(key, None)
        if words is not None:
            log.info("mended: %s", words)

    def _drop(self, identity: int) -> None:
        registration, files = self._followed.pop(identity, (None, _Files()))
        for path in files.resolved:
            self._users[path].discard(identity)
            if not self._users[path]:
                del self._users[path]
        self._seen.pop(identity, None)
        if registration is not None and self._snapshot.named(registration.name) is None:
            self.problems.pop(registration.name, None)

    def _follow_paths(self) -> None:
        if self._watch is None:
            return
        problems = self._watch.follow({f"{self._directory}/", *self._users})
        for words in problems:
            log.warning("%s; it is looked at every %g s", words, CHECK_SECONDS)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files that a registration follows."""

    sources: tuple[Source, ...] = ()
    trust: TrustSource = field(default=TrustSource())

    @property
    def paths(self) -> list[str]:
        """Their paths, as they were given."""
        return [*(path for source in self.sources for path in paths_of(source)), *self.trust.paths]

    @property
    def resolved(self) -> set[str]:
        """Where they are."""
        found = set()
        for path in self.paths:
            try:
                found.add(resolved(path))
            except RefusedError:
                continue  # there are no such files in this life of the daemon; opening them will say so
        return found

    def digest(self) -> bytes:
        """A digest of their content, and of who may have written it."""
        digest = hashlib.sha256()
        for path in self.paths:
            with open(resolved(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                digest.update(f"{status.st_uid} {status.st_mode} {status.st_size}\n".encode())
                digest.update(file.read(1 << 20))
        return digest.digest()
