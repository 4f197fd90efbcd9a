"""Keep registrations up to date with their files: renewed credentials, and new, changed and removed drop-ins.

Files are compared by content. If a file cannot be used, the old credential stays in use, and a problem is reported
under the registration's name until it is fixed. Handshakes in flight are not affected: the store gets new rows.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from handshaked.callers.log_limit import LogLimit
from handshaked.callers.owners import owner_of
from handshaked.control.files.drop_ins import DropIns, Problem, read_drop_ins
from handshaked.control.files.readers import Readers, contained
from handshaked.control.files.registration_files import Content, RegistrationFiles
from handshaked.control.files.watch import Watch
from handshaked.control.requests.loading import is_trusted, paths_of
from handshaked.control.requests.policies import TrustSource
from handshaked.control.requests.registration import check_all_valid
from handshaked.errors import RefusedError, UnavailableError, file_problem
from handshaked.registry.credentials import LoadedCredential, leaf_summary, uncovered_names
from handshaked.registry.notices import does_not_cover
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import ClientTrust, ConflictError, NewRegistration, RegistryWriter, Source
from handshaked.system.tasks import Tasks

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""Delay after a change, because renewal tools write several files."""
CHECK_SECONDS = 600.0
"""Interval between checks of all files, for file systems that report no changes."""
RETRY_SECONDS = 20.0
"""Interval between checks of files with a problem."""
START_SECONDS = 30.0
"""Longest time that the daemon waits for the drop-ins before it reports that it is ready."""
DROP_INS_SECONDS = 300.0
"""Time limit for reading all drop-ins with the files they name."""
SHARE_SECONDS = 30.0
"""Time limit for checking the files of one user; the remaining ones become a problem and are checked later."""


class Renewal:
    """Follow the files of the registrations in `store`, and the drop-ins in `directory`.

    `changed` publishes a change of the store and returns the new snapshot. `readers` read the files of users.
    ``problems`` are the current ones, by registration name, or by place with a leading slash.
    """

    def __init__(
        self, store: RegistryWriter, directory: Path, changed: Callable[[], Awaitable[Snapshot]], readers: Readers
    ) -> None:
        self.problems: dict[str, str] = {}
        self._defined: dict[str, str] = {}
        self._store = store
        self._directory = directory
        self._changed = changed
        self._readers = readers
        self._drop_in_readers = Readers()
        self._snapshot = Snapshot()
        self._followed: dict[int, tuple[Registration, RegistrationFiles]] = {}
        self._users: dict[str, set[int]] = {}
        self._seen: dict[int, Content] = {}
        self._rejected: dict[int, Content] = {}
        self._watch: Watch | None = None
        self._lock = asyncio.Lock()
        self._tasks = Tasks("the renewal of files")
        self._log_limit = LogLimit()

    async def start(self, snapshot: Snapshot) -> None:
        """Start following the files of `snapshot`, and load the drop-ins.

        If that takes longer than ``START_SECONDS``, it continues in the background.
        """
        self._start_watching()
        self.follow(snapshot)
        await asyncio.wait([self._tasks.start(self._read_drop_ins())], timeout=START_SECONDS)
        self._tasks.keep(self._check_regularly)

    def _start_watching(self) -> None:
        try:
            self._watch = Watch(self._on_change, QUIET_SECONDS, self._readers, self._warn_of_unwatched)
        except OSError as error:
            self._report("inotify(7)", f"files cannot be watched, they are checked every {CHECK_SECONDS:g} s: {error}")
        else:
            self._clear_problem("inotify(7)")
            self._watch.follow_now(f"{self._directory}/")

    async def close(self) -> None:
        """Stop watching."""
        await self._tasks.end()
        if self._watch is not None:
            self._watch.close()

    def follow(self, snapshot: Snapshot) -> None:
        """Follow the files of the registrations in `snapshot` from now on."""
        self._snapshot = snapshot
        current = {registration.id: registration for registration in snapshot.registrations}
        for identity in self._followed.keys() - current.keys():
            self._drop(identity)
        new = [one for one in current.values() if self._followed.get(one.id, (None,))[0] is not one]
        identities = [one.id for one in new] or [0]
        sources = self._store.sources(min(identities), max(identities))
        for registration in new:
            self._drop(registration.id)
            files = self._files_of(registration, sources.get(registration.id, ()))
            self._followed[registration.id] = (registration, files)
            for path in files.resolved:
                self._users.setdefault(path, set()).add(registration.id)
        unwatched = self._follow_paths()
        # Files may have been replaced before they were watched. And if the daemon cannot read them, the administrator
        # should know before they are renewed.
        watched = [one.id for one in new if unwatched.isdisjoint(self._followed[one.id][1].resolved)]
        if watched:
            self._tasks.start(self.check(watched))

    async def reload(self) -> tuple[list[str], list[str]]:
        """Check all files; return the names of registrations renewed, added, changed or removed, and all problems."""
        changed = await self._read_drop_ins()
        self._rejected.clear()
        changed += await self.check(list(self._followed))
        self._follow_paths()
        return changed, list(self.problems.values())

    async def check(self, identities: Iterable[int]) -> list[str]:
        """Check the files of some registrations, different users concurrently; return the names of those renewed."""
        by_owner: dict[int, list[int]] = {}
        for identity in identities:
            if identity in self._followed:
                by_owner.setdefault(owner_of(self._followed[identity][0].owner), []).append(identity)
        found = await asyncio.gather(*(self._check_owner(*one) for one in by_owner.items()))
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
        """Check what had a problem again: it may be gone, such as a full disk or a wrong clock."""
        if self._watch is None:
            self._start_watching()
            self._follow_paths()
        await self._read_drop_ins()
        await self.check([id_ for id_, (one, _) in self._followed.items() if one.name in self.problems])

    async def _check_owner(self, owner: int, identities: list[int]) -> list[str]:
        renewed = []
        end = None if is_trusted(owner) else time.monotonic() + SHARE_SECONDS
        for identity in identities:
            registration, files = self._followed.get(identity, (None, RegistrationFiles()))
            if registration is None:
                continue
            if end is not None and time.monotonic() > end:
                words = f"not checked yet: reading the files of uid {owner} takes longer than {SHARE_SECONDS:g} s"
                self._report(registration.name, f"{registration.name}: {words}", owner)
            elif await self._check_one(registration, files):
                renewed.append(registration.name)
        return renewed

    def _files_of(self, registration: Registration, sources: tuple[Source, ...]) -> RegistrationFiles:
        followed = tuple(one for one in sources if paths_of(one))
        trust = registration.policy.client_trust
        return RegistrationFiles(followed, TrustSource(*self._store.trust_paths(trust)) if trust else TrustSource())

    async def _check_one(self, registration: Registration, files: RegistrationFiles) -> bool:
        """Return whether the credentials or trust anchors of `registration` were renewed."""
        if not files.paths:
            return False
        owner = registration.owner
        known = [found for kept in (self._seen, self._rejected) if (found := kept.get(registration.id)) is not None]
        try:
            found = await self._readers.read(owner, lambda _: files.read(owner, known))
            # If the registration was replaced meanwhile, its successor is checked on its own.
            with contained(registration.name):
                renewed = self._follows(registration) and self._apply(registration, files, found)
        except (OSError, RefusedError) as error:
            if self._follows(registration):
                words = f"{file_problem(error)}; the old credential stays in use"
                self._report(registration.name, f"{registration.name}: {words}", owner)
            return False
        self._clear_problem(registration.name, owner)
        return renewed

    def _follows(self, registration: Registration) -> bool:
        return self._followed.get(registration.id, (None,))[0] is registration

    def _apply(self, registration: Registration, files: RegistrationFiles, found: Content) -> bool:
        """Put what was `found` into the store; return whether it differs. RefusedError if it cannot be used."""
        if found.refusal:
            self._rejected[registration.id] = found
            raise RefusedError(found.refusal)
        if found.credentials is None:
            return False
        renewed = self._renew_credentials(registration, files.sources, found.credentials)
        renewed = self._renew_trust(registration, found.trust) or renewed
        self._seen[registration.id] = Content(found.digest)
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
        if registration.policy.lost_names == "refuse":
            self._check_names(registration, loaded)
        self._store.replace_credentials(registration, zip(loaded, sources, strict=True))
        return True

    def _check_names(self, registration: Registration, loaded: Iterable[LoadedCredential]) -> None:
        """Refuse `loaded` if one no longer covers a name that its predecessor, which has not expired, covers."""
        chains = self._store.chains(registration.id, registration.id).get(registration.id, [])
        for (chain, _), new in zip(chains, loaded, strict=False):
            old = leaf_summary(chain[0])
            missing = uncovered_names(new.names, registration.server_names)
            lost = [name for name in missing if name not in uncovered_names(old.names, registration.server_names)]
            if lost and time.time() < old.not_after:
                raise RefusedError(
                    f"{does_not_cover(new.subject, lost)}, unlike the old one: reissue it with all names, or register"
                    " again without these or with lost-names=accept"
                )

    def _renew_trust(self, registration: Registration, trust: ClientTrust | None) -> bool:
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
                self._report(f"/{self._directory}", f"{self._directory}: cannot be read: {error}")
                return []
            return await self._apply_drop_ins(found)

    async def _apply_drop_ins(self, found: DropIns) -> list[str]:
        current = {one.name: one for one in self._snapshot.registrations}
        wanted = {}
        for name, (new, where) in found.wanted.items():
            old = current.get(name)
            if old is not None and not old.origin:
                reason = f"registration {name!r} already exists, registered by uid {old.owner}; unregister it first"
                found.problems.append(Problem(where, reason, name))
            elif old is None or not (self._same(old, new) or self._loses_names(old, new)):
                wanted[name] = new
        removed = [one.name for one in current.values() if one.origin and self._is_removed(one, found)]
        changed = self._exchange(removed, wanted, found)
        self._report_all(found)
        if changed:
            log.info("drop-in files changed %s", ", ".join(changed))
            await self._changed()
        return changed

    def _exchange(self, removed: list[str], wanted: dict[str, NewRegistration], found: DropIns) -> list[str]:
        """Put `wanted` into the store; conflicting registrations are left out and become problems."""
        while removed or wanted:
            try:
                self._store.exchange(removed, wanted.values())
            except ConflictError as error:
                del wanted[error.name]
                found.problems.append(Problem(found.wanted[error.name][1], str(error), error.name))
            except UnavailableError as error:
                found.problems.append(Problem(str(self._directory), str(error)))
                return []
            else:
                break
        return [*removed, *wanted]

    def _is_removed(self, registration: Registration, found: DropIns) -> bool:
        stays = {problem.name for problem in found.problems} | found.wanted.keys()
        return found.complete and registration.name not in stays and registration.origin not in found.unread

    def _same(self, old: Registration, new: NewRegistration) -> bool:
        digests = [one.chain_digest for one in self._store.details(old)]
        return (
            self._same_definition(old, new)
            and self._same_trust(old, new.client_trust)
            and digests == [one.chain_digest for one, _ in new.credentials]
        )

    def _same_definition(self, old: Registration, new: NewRegistration) -> bool:
        return (
            (old.owner, old.server_names, old.alpns, old.access, old.origin)
            == (new.owner, new.server_names, new.alpns, new.access, new.origin)
            and replace(old.policy, client_trust=0) == new.policy
            and [one.source for one in self._store.details(old)] == [source for _, source in new.credentials]
        )

    def _loses_names(self, old: Registration, new: NewRegistration) -> bool:
        """Return whether a drop-in's files are refused, which ``check`` reports, as for all registrations."""
        if old.policy.lost_names != "refuse" or not self._same_definition(old, new):
            return False
        try:
            self._check_names(old, [loaded for loaded, _ in new.credentials])
        except RefusedError:
            return True
        return False

    def _same_trust(self, old: Registration, new: ClientTrust | None) -> bool:
        identity = old.policy.client_trust
        if new is None or identity == 0:
            return new is None and identity == 0
        return self._store.trust(identity) == new

    def _report_all(self, found: DropIns) -> None:
        """Update the problems of drop-ins. Their keys begin with a slash, as no registration name does."""
        self._defined = {f"/{problem.where}": problem.name for problem in found.problems}
        new = {f"/{problem.where}": str(problem) for problem in found.problems}
        for key in [key for key in self.problems if key.startswith("/") and key not in new]:
            self._clear_problem(key)
        for key, words in new.items():
            self._report(key, words)

    def problems_of(self, name: str) -> list[str]:
        """Return the problems of the files of the registration `name`."""
        return [words for key, words in self.problems.items() if name in (key, self._defined.get(key))]

    def _report(self, key: str, words: str, owner: int = 0) -> None:
        if self.problems.get(key) != words:
            if self._log_limit.allows(f"files of uid {owner}"):
                log.error("%s", words)
            self.problems[key] = words

    def _clear_problem(self, key: str, owner: int = 0) -> None:
        words = self.problems.pop(key, None)
        if words is not None and self._log_limit.allows(f"files of uid {owner}"):
            log.info("fixed: %s", words)

    def _drop(self, identity: int) -> None:
        registration, files = self._followed.pop(identity, (None, RegistrationFiles()))
        for path in files.resolved:
            self._users[path].discard(identity)
            if not self._users[path]:
                del self._users[path]
        self._seen.pop(identity, None)
        self._rejected.pop(identity, None)
        if registration is not None and self._snapshot.named(registration.name) is None:
            self.problems.pop(registration.name, None)

    def _follow_paths(self) -> set[str]:
        """Watch the current paths; return those that are not watched yet, for which ``_on_change`` will be called."""
        if self._watch is None:
            return set()
        owners = {
            path: min(self._followed[identity][0].owner for identity in identities)
            for path, identities in self._users.items()
        }
        return self._watch.follow({**owners, f"{self._directory}/": 0})

    def _warn_of_unwatched(self, words: str, owner: int) -> None:
        if self._log_limit.allows(f"files of uid {owner}"):
            log.warning("%s; it is checked every %g s", words, CHECK_SECONDS)
