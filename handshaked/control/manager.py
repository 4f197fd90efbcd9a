"""The commands that change and show registrations, for the control socket and D-Bus.

They change the store; handshakes in flight keep the snapshot they began with.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from handshaked.callers.log_limit import LogLimit
from handshaked.callers.threads import ThreadPool
from handshaked.control.current_notices import CurrentNotices
from handshaked.control.event_broker import EventBroker, Filter, parse_pattern
from handshaked.control.files.readers import Readers
from handshaked.control.files.renewal import Renewal
from handshaked.control.presentation import Result, shown_grant, shown_registration
from handshaked.control.requests.arguments import Arguments
from handshaked.control.requests.permissions import (
    caller_named,
    count_held,
    gid_of,
    is_administrator,
    may_register,
    may_see,
    require_administrator,
    require_any_grant,
    require_grant,
    require_owner,
    uid_of,
)
from handshaked.control.requests.registration import RegistrationRequest, load_passed, pull_request
from handshaked.errors import HandshakeError, RefusedError, UnavailableError
from handshaked.model import Caller
from handshaked.registry.expiry import LONGEST_WARNING, Expiry, expires, expiry
from handshaked.registry.names import canonical_server_name, parse_alpn, show_alpn, sni_of
from handshaked.registry.notices import Notice
from handshaked.registry.registration import Grant, Registration
from handshaked.registry.setting_types import Each, Text
from handshaked.registry.settings import ALLOW_KERNEL, REPLACE
from handshaked.registry.snapshot import Forwarded, Query, Snapshot
from handshaked.registry.store import Lifetime, RegistryWriter
from handshaked.system.tasks import Tasks
from handshaked.wire.json_packets import first_that_fit

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 200
_LIST_SHARE = 0.25  # of a message, for lists that are not requested page by page
_RETRY_SECONDS = 1.0


class Manager:
    """Run commands on the registrations in `store`.

    `publish` distributes a new snapshot to all workers. `check_settings` checks the daemon's settings, which workers
    reload with the registrations, and returns notices about them. ``on_change`` is called with each new snapshot.
    Threads come from `pool`.
    """

    def __init__(
        self,
        store: RegistryWriter,
        publish: Callable[[Snapshot], Awaitable[None]],
        drop_ins: Path,
        check_settings: Callable[[], Iterable[Notice]] = tuple,
        pool: ThreadPool | None = None,
    ) -> None:
        self._store = store
        self._publish = publish
        self._check_settings = check_settings
        self.snapshot = store.load()
        self.events = EventBroker(self._owner_of)
        self._readers = Readers(pool)
        self._log_limit = LogLimit()
        self.renewal = Renewal(store, drop_ins, self._changed, self._readers)
        self.on_change: list[Callable[[Snapshot], object]] = []
        self._warned: dict[tuple[str, float], Expiry] = {}
        self._tasks = Tasks("the registrations")
        self._catching_up = False
        self._notices = CurrentNotices(store, pool)

    async def start(self) -> None:
        """Start following files."""
        with suppress(RefusedError):  # it was checked before; if a file has changed since, the next reload says so
            self.use_settings(self._check_settings())
        await self.renewal.start(self.snapshot)

    async def close(self) -> None:
        """Stop following files."""
        await self._tasks.end()
        await self.renewal.close()

    def use_settings(self, notices: Iterable[Notice]) -> None:
        """Replace the notices about the daemon's settings, which have changed."""
        self._notices.settings = tuple(notices)

    async def register(self, caller: Caller, arguments: Arguments, descriptors: tuple[int, ...]) -> Result:
        """Add a registration. Its files are passed as open `descriptors`, in the order of their paths."""
        require_any_grant(caller, self._store.grants())  # before the work of looking at what a stranger sent
        replace = arguments.setting(REPLACE)
        request = pull_request(arguments)
        self._require_right(caller, request, replace=replace)
        loaded = await self._readers.read(
            caller.uid, lambda files: load_passed(request, files, caller.uid), descriptors
        )
        new = request.with_loaded(loaded, caller.uid)
        self._require_right(caller, request, replace=replace)  # the registrations may have changed meanwhile
        registration = self._store.register(new, replace=replace)
        await self._changed()
        if self._log_limit.allows(caller):
            log.info("%s registered %s", caller, registration.name)
        return {"registration": self.shown(registration), "warnings": self._notices.of(registration, time.time())}

    def may_register(self, caller: Caller) -> bool:
        """Return whether `caller` may register anything at all."""
        return may_register(caller, self._store.grants())

    async def unregister(self, caller: Caller, arguments: Arguments) -> Result:
        """Remove a registration."""
        name = arguments.text("name")
        arguments.end()
        require_owner(caller, self._named(name), "unregister")
        self._store.unregister(name)
        await self._changed()
        if self._log_limit.allows(caller):
            log.info("%s unregistered %s", caller, name)
        return {}

    def registrations(self, caller: Caller, arguments: Arguments) -> Result:
        """Return a page of the registrations that `caller` may see, sorted by name, after the name ``after``."""
        after = arguments.optional_text("after") or ""
        arguments.end()
        visible = [one for one in self.visible(caller) if one.name > after]
        page = first_that_fit(self._with_warnings(one) for one in visible[:PAGE])
        return {"registrations": page, "more": len(visible) > len(page)}

    def show(self, caller: Caller, arguments: Arguments) -> Result:
        """Return one registration with its settings and credentials."""
        name = arguments.text("name")
        arguments.end()
        registration = self._named(name)
        if not may_see(caller, registration):
            raise RefusedError(f"there is no registration {name!r}")
        return {"registration": self._with_warnings(registration)}

    async def explain(self, caller: Caller, arguments: Arguments) -> Result:
        """Return which registration a ClientHello would select, and why, from the function that live handshakes use."""
        user = arguments.optional_text("user")
        server_name = arguments.optional_text("server_name")
        query = Query(
            caller=caller if user is None else await self._resolved(caller, lambda: caller_named(user)),
            server_name=None if server_name is None else sni_of(server_name),
            alpns=arguments.each("alpns", Each(parse_alpn, "ALPN")),
        )
        arguments.end()
        if query.caller != caller:
            require_administrator(caller, "explain what another user would get")
        answer, verdicts = self.snapshot.explain(query)
        shown = [
            {
                "registration": verdict.registration.name,
                "matched_name": verdict.matched_name,
                "chosen": verdict.chosen,
                "reason": verdict.reason,
            }
            for verdict in verdicts
            if may_see(caller, verdict.registration)
        ]
        if isinstance(answer, HandshakeError):
            return {"alert": answer.alert.label, "reason": answer.reason, "candidates": shown}
        chosen = {
            "registration": answer.registration.name,
            "alpn": show_alpn(answer.alpn),
            "deliver": answer.registration.policy.deliver,
            "candidates": shown,
        }
        if isinstance(answer, Forwarded):
            return chosen
        return chosen | {
            "certificate": answer.credential.leaf_digest.hex(),
            "key_type": answer.credential.key_type.value,
        }

    async def reload(self, caller: Caller) -> Result:
        """Reload all files. If one cannot be used, what was loaded before stays in use."""
        require_administrator(caller, "reload")
        renewed, errors = await self.renewal.reload()
        try:
            self.use_settings(self._check_settings())
        except RefusedError as error:
            errors.append(str(error))
        self._notices.log_new(time.time())
        await self._publish(self.snapshot)  # workers that could not read the registry try again
        log.info("reloaded: %d registrations renewed, %d errors", len(renewed), len(errors))
        return {"renewed": _first(renewed), "errors": _first(errors)}

    async def grant(self, caller: Caller, arguments: Arguments) -> Result:
        """Allow a user, or the members of a group, to register certain names."""
        require_administrator(caller, "grant")
        user, group = arguments.optional_text("user"), arguments.optional_text("group")
        grant = Grant(
            id=0,
            uid=None if user is None else await self._resolved(caller, lambda: uid_of(user)),
            gid=None if group is None else await self._resolved(caller, lambda: gid_of(group)),
            server_names=arguments.each("server_names", Each(canonical_server_name, "server name")),
            alpns=arguments.each("alpns", Each(parse_alpn, "ALPN")),
            kernel=arguments.setting(ALLOW_KERNEL),
        )
        arguments.end()
        if (user is None) == (group is None) or not grant.alpns:
            raise RefusedError("a grant requires either a user or a group, and at least one ALPN")
        grant = self._store.add_grant(grant)
        log.info("%s added grant %d for %s", caller, grant.id, f"user {user}" if user else f"group {group}")
        return shown_grant(grant)

    def revoke(self, caller: Caller, arguments: Arguments) -> Result:
        """Revoke a grant. Registrations made with it remain."""
        require_administrator(caller, "revoke a grant")
        identity = arguments.number("id", 0, limit=1 << 53)
        arguments.end()
        self._store.remove_grant(identity)
        log.info("%s revoked grant %d", caller, identity)
        return {}

    def grants(self, caller: Caller) -> Result:
        """Return the grants of `caller`; all grants for an administrator."""
        everything = is_administrator(caller)
        return {"grants": [shown_grant(one) for one in self._store.grants() if everything or one.is_for(caller)]}

    def recent(self, caller: Caller, arguments: Arguments) -> Result:
        """Return the latest handshakes that `caller` may see, newest last."""
        limit = arguments.number("limit", 20, limit=100)
        wanted = pull_filter(arguments)
        arguments.end()
        return {"handshakes": self.events.recent(caller, wanted, limit)}

    def status(self, caller: Caller) -> Result:
        """Return the number of registrations, problems and warnings, and the certificates that expire soon."""
        problems = list(self.renewal.problems.values())
        now = time.time()
        try:
            ends = [one for one, _ in self._expiring(now)]
        except UnavailableError as error:
            ends = []
            problems.append(str(error))
        expiring = [
            one._asdict()
            for one in ends
            if (registration := self.snapshot.named(one.registration)) is not None and may_see(caller, registration)
        ]
        return {
            "registrations": sum(not one.internal for one in self.snapshot.registrations),
            "problems": _first(problems) if is_administrator(caller) else [],
            "warnings": _first(self._warnings(caller, now)),
            "expiring": first_that_fit(expiring[:PAGE], _LIST_SHARE),
            "handshakes": {"succeeded": self.events.counts.succeeded, "failed": self.events.counts.failed},
        }

    def statistics(self, caller: Caller) -> Result:
        """Return counts of handshakes by outcome, role, source and registration, and their latencies."""
        require_administrator(caller, "read the statistics")
        return self.events.counts.shown()

    def visible(self, caller: Caller) -> list[Registration]:
        """Return the registrations that `caller` may see, sorted by name."""
        return [one for one in self.snapshot.registrations if may_see(caller, one)]

    def shown(self, registration: Registration) -> Result:
        """Return `registration` as plain values, without keys."""
        policy = registration.policy
        return shown_registration(
            registration, self._store.trust_paths(policy.client_trust), self._store.details(registration)
        )

    async def warn(self, now: float) -> None:
        """Report new notices in the log, and certificates that expire soon to subscribers, too: once at each stage."""
        await self._notices.follow(self.snapshot, now)
        before, self._warned = self._warned, {}
        for one, stage in self._expiring(now):
            key = one.registration, one.not_after
            self._warned[key] = stage
            if before.get(key, Expiry.FAR) >= stage:
                continue
            log.warning("%s: the certificate %s %s", one.registration, one.subject, expires(one.not_after, now))
            self.events.publish(
                "certificate", registration=one.registration, subject=one.subject, not_after=one.not_after
            )

    def lifetimes(self, limit: int) -> dict[str, Lifetime]:
        """Return the lifetime of each registration's first certificate to expire, for the `limit` that expire first."""
        found: dict[str, Lifetime] = {}
        for one in self._store.lifetimes():
            if not one.registration.startswith("."):
                found.setdefault(one.registration, one)
            if len(found) >= limit:
                break
        return found

    def _with_warnings(self, registration: Registration) -> Result:
        problems = [one.removeprefix(f"{registration.name}: ") for one in self.renewal.problems_of(registration.name)]
        return self.shown(registration) | {"warnings": problems + self._notices.of(registration, time.time())}

    def _warnings(self, caller: Caller, now: float) -> list[str]:
        settings = self._notices.about_settings(now) if is_administrator(caller) else []
        return [*settings, *self._notices.about(self.visible(caller), now)]

    def _expiring(self, now: float) -> Iterator[tuple[Lifetime, Expiry]]:
        for one in self._store.lifetimes(now + LONGEST_WARNING):
            stage = expiry(one.not_before, one.not_after, now)
            if stage is not Expiry.FAR and not one.registration.startswith("."):
                yield one, stage

    async def _changed(self) -> Snapshot:
        """Use the changes of the store, now or, with UnavailableError, as soon as it can be read."""
        try:
            return await self._use_changes()
        except UnavailableError as error:
            if not self._catching_up:
                log.error("a change is stored, but not in use until the registry can be read: %s", error)
                self._tasks.start(self._catch_up())
            raise UnavailableError(f"stored, but not in use until the registry can be read: {error}") from None

    async def _catch_up(self) -> None:
        self._catching_up = True
        try:
            while True:
                await asyncio.sleep(_RETRY_SECONDS)
                with suppress(UnavailableError):
                    await self._use_changes()
                    log.info("the stored changes are in use")
                    return
        finally:
            self._catching_up = False

    async def _use_changes(self) -> Snapshot:
        self.snapshot = self._store.refresh(self.snapshot)
        self.renewal.follow(self.snapshot)
        await self._publish(self.snapshot)
        for call in self.on_change:
            call(self.snapshot)
        self.events.publish("registrations", generation=self.snapshot.generation)
        with suppress(UnavailableError):  # ``warn`` tries again
            await self._notices.follow(self.snapshot, time.time())
        return self.snapshot

    async def _resolved(self, caller: Caller, look_up: Callable[[], T]) -> T:
        """Return the result of `look_up`, which may ask a server for users or groups, in a thread of `caller`."""
        return await self._readers.read(caller.uid, lambda _: look_up())

    def _require_right(self, caller: Caller, request: RegistrationRequest, *, replace: bool) -> None:
        """Raise DeniedError unless `caller` may register `request`, and with `replace` the registration it replaces."""
        old = self.snapshot.named(request.name) if replace else None
        if old is not None:
            require_owner(caller, old, "replace")
        held = count_held(caller, (one for one in self.snapshot.registrations if one is not old))
        require_grant(caller, request, self._store.grants(), held)

    def _owner_of(self, name: str) -> int | None:
        registration = self.snapshot.named(name)
        return None if registration is None else registration.owner

    def _named(self, name: str) -> Registration:
        registration = self.snapshot.named(name)
        if registration is None or registration.internal:
            raise RefusedError(f"there is no registration {name!r}")
        return registration


def pull_filter(arguments: Arguments) -> Filter:
    """Return the filter in `arguments`."""
    return Filter(
        outcome=arguments.optional_text("outcome"),
        registration=arguments.optional_text("registration"),
        role=arguments.optional_text("role"),
        server_name=arguments.pull("server_name", Text(parse_pattern), None),
    )


def _first(words: list[str]) -> list[str]:
    """Return as many of `words` as fit into an answer; the log has all of them."""
    shown = first_that_fit(words, _LIST_SHARE)
    return shown if len(shown) == len(words) else [*shown, f"and {len(words) - len(shown)} more, see the log"]
