"""Keeps registrations in step with files: credentials that are renewed, drop-ins that come, change and go.

Files are compared by content. Whatever cannot be used leaves the old in place and becomes a problem, by the name of
what it keeps from changing, until it is mended. Handshakes under way are not disturbed: the store gets new rows.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from handshaked.control.files.drop_ins import DropIns, Problem, read_drop_ins
from handshaked.control.files.readers import Readers
from handshaked.control.files.watch import Watch
from handshaked.control.requests.loading import is_trusted, paths_of, reread, resolved
from handshaked.control.requests.loading_sandbox import load_for
from handshaked.control.requests.policies import TrustSource, load_trust, reread_trust
from handshaked.control.requests.registration import check_all_valid
from handshaked.errors import RefusedError, UnavailableError
from handshaked.registry.credentials import LoadedCredential
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import ConflictError, NewRegistration, NewTrust, RegistryWriter, Source
from handshaked.system.tasks import Tasks

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""Renewal tools write several files: wait for the end of a burst."""
CHECK_SECONDS = 600.0
"""All files are looked at this often besides, for file systems that report no changes."""
RETRY_SECONDS = 20.0
"""What has a problem is looked at this often."""
START_SECONDS = 30.0
"""The drop-ins are waited for this long before the daemon says that it is ready."""
DROP_INS_SECONDS = 300.0
"""Reading all drop-ins, with their files, may take this long."""
SHARE_SECONDS = 30.0
"""The files of one user may take this long at a time; what is left is a problem, and has its turn later."""


class Renewal:
    """Follows the files of the registrations in `store`, and the drop-ins in `directory`.

    `changed` makes a change of the store known and returns the new snapshot; `readers` wait for slow files.
    """

    def __init__(
        self, store: RegistryWriter, directory: Path, changed: Callable[[], Awaitable[Snapshot]], readers: Readers
    ) -> None:
        self.problems: dict[str, str] = {}
        self._store = store
        self._directory = directory
        self._changed = changed
        self._readers = readers
        self._drop_in_readers = Readers()
        self._snapshot = Snapshot()
        self._followed: dict[int, tuple[Registration, _Files]] = {}
        self._users: dict[str, set[int]] = {}
        self._seen: dict[int, _Found] = {}
        self._unfit: dict[int, _Found] = {}
        self._watch: Watch | None = None
        self._lock = asyncio.Lock()
        self._tasks = Tasks("the renewal of files")

    async def start(self, snapshot: Snapshot) -> None:
        """Follow files from now on, those of `snapshot` among them, and take over what is in drop-ins.

        That goes on beside when it takes over ``START_SECONDS``.
        """
        self._begin_to_watch()
        self.follow(snapshot)
        await asyncio.wait([self._tasks.start(self._read_drop_ins())], timeout=START_SECONDS)
        self._tasks.start(self._check_regularly())

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
            self._tasks.start(self.check([registration.id for registration in fresh]))

    async def reload(self) -> tuple[list[str], list[str]]:
        """Look at all files: the names of what was renewed, added, changed or removed, and what is wrong, in words."""
        changed = await self._read_drop_ins()
        self._unfit.clear()
        changed += await self.check(list(self._followed))
        self._follow_paths()
        return changed, list(self.problems.values())

    async def check(self, identities: Iterable[int]) -> list[str]:
        """Look at the files of some registrations, of all users at a time; the names of what was renewed."""
        by_owner: dict[int, list[int]] = {}
        for identity in identities:
            if identity in self._followed:
                by_owner.setdefault(self._followed[identity][0].owner, []).append(identity)
        found = await asyncio.gather(*(self._check_those_of(*one) for one in by_owner.items()))
        renewed = [name for names in found for name in names]
        if renewed:
            log.info("renewed the credentials of %s", ", ".join(renewed))
            await self._changed()
        return renewed

    def _on_change(self, paths: set[str]) -> None:
        if any(path.startswith(f"{self._directory}/") for path in paths):
            self._tasks.start(self._read_drop_ins())
        identities = {identity for path in paths for identity in self._users.get(path, ())}
        if identities:
            self._tasks.start(self.check(identities))

    async def _check_regularly(self) -> None:
        while True:
            for _ in range(int(CHECK_SECONDS / RETRY_SECONDS)):
                await asyncio.sleep(RETRY_SECONDS)
                if self.problems:
                    await self._retry()
            await self.reload()

    async def _retry(self) -> None:
        """Look again at what had a problem, which may have passed: a full disk, a clock that was wrong."""
        if self._watch is None:
            self._begin_to_watch()
            self._follow_paths()
        await self._read_drop_ins()
        await self.check([id_ for id_, (one, _) in self._followed.items() if one.name in self.problems])

    async def _check_those_of(self, owner: int, identities: list[int]) -> list[str]:
        renewed = []
        end = None if is_trusted(owner) else time.monotonic() + SHARE_SECONDS
        for identity in identities:
            registration, files = self._followed.get(identity, (None, _Files()))
            if registration is None:
                continue
            if end is not None and time.monotonic() > end:
                words = f"not looked at for now: the files of uid {owner} take over {SHARE_SECONDS:g} s"
                self._note(registration.name, f"{registration.name}: {words}")
            elif await self._check_one(registration, files):
                renewed.append(registration.name)
        return renewed

    def _files_of(self, registration: Registration, sources: tuple[Source, ...]) -> "_Files":
        followed = tuple(one for one in sources if paths_of(one))
        trust = registration.policy.client_trust
        return _Files(followed, TrustSource(*self._store.trust_paths(trust)) if trust else TrustSource())

    async def _check_one(self, registration: Registration, files: "_Files") -> bool:
        """Whether `registration` has other credentials, or other trust in client certificates, now."""
        if not files.paths:
            return False
        owner = registration.owner
        known = [found for kept in (self._seen, self._unfit) if (found := kept.get(registration.id)) is not None]
        try:
            found = await self._readers.read(owner, lambda _: files.read(owner, known))
            # What was replaced meanwhile is looked at as what it is now.
            renewed = self._follows(registration) and self._take_over(registration, files, found)
        except (OSError, RefusedError) as error:
            if self._follows(registration):
                words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                self._note(registration.name, f"{registration.name}: {words}; the old credential stays")
            return False
        self._mended(registration.name)
        return renewed

    def _follows(self, registration: Registration) -> bool:
        return self._followed.get(registration.id, (None,))[0] is registration

    def _take_over(self, registration: Registration, files: "_Files", found: "_Found") -> bool:
        """Whether what was `found` differs from what the store has. RefusedError if it is of no use."""
        if found.refusal:
            self._unfit[registration.id] = found
            raise RefusedError(found.refusal)
        if found.credentials is None:
            return False
        renewed = self._renew_credentials(registration, files.sources, found.credentials)
        renewed = self._renew_trust(registration, found.trust) or renewed
        self._seen[registration.id] = _Found(found.digest)
        return renewed

    def _renew_credentials(
        self, registration: Registration, sources: tuple[Source, ...], loaded: list[LoadedCredential]
    ) -> bool:
        if not sources:
            return False
        old = [(one.reference.leaf_digest, one.chain_digest) for one in self._store.details(registration)]
        if [(one.leaf_digest, one.chain_digest) for one in loaded] == old:
            return False
        check_all_valid(loaded)
        self._store.replace_credentials(registration, zip(loaded, sources, strict=True))
        return True

    def _renew_trust(self, registration: Registration, trust: NewTrust | None) -> bool:
        if trust is None or trust == self._store.trust(registration.policy.client_trust):
            return False
        self._store.replace_trust(registration, trust)
        return True

    async def _read_drop_ins(self) -> list[str]:
        async with self._lock:
            try:
                found = await self._drop_in_readers.read(
                    0, lambda _: read_drop_ins(self._directory), seconds=DROP_INS_SECONDS
                )
            except (OSError, RefusedError) as error:
                self._note(f"/{self._directory}", f"{self._directory}: cannot be read: {error}")
                return []
            return await self._take_over_drop_ins(found)

    async def _take_over_drop_ins(self, found: DropIns) -> list[str]:
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
        return self._store.trust(identity) == new

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
        self._unfit.pop(identity, None)
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

    def read(self, owner: int, known: Iterable["_Found"]) -> "_Found":
        """What is in them for `owner`, or the one of `known` that it is. It may take any time."""
        contents = [reread(source, owner) for source in self.sources]
        trust = reread_trust(self.trust, owner)
        hashed = hashlib.sha256()
        for content in (content for one in (*contents, trust) for content in one):
            hashed.update(hashlib.sha256(content).digest())
        digest = hashed.digest()
        for found in known:
            if found.digest == digest:
                return found
        try:
            credentials = [load_for(owner, *one) for one in zip(self.sources, contents, strict=True)]
            return _Found(digest, credentials, load_trust(self.trust, trust))
        except RefusedError as error:
            return _Found(digest, refusal=str(error))


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files of a registration hold, by its ``digest``: why that is of no use; or what was loaded, of which
    nothing is kept once it is in the store."""

    digest: bytes
    credentials: list[LoadedCredential] | None = field(default=None, repr=False)
    trust: NewTrust | None = field(default=None, repr=False)
    refusal: str = ""
