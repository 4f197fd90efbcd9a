"""What administrators can do: one façade behind every way in. It changes the store, never a running handshake."""

import grp
import logging
import os
import pwd
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from handshaked.control.arguments import Arguments
from handshaked.errors import HandshakeError, RefusedError
from handshaked.model import KERNEL, Caller
from handshaked.registry.credentials import (
    LoadedCredential,
    check_validity,
    load_pem,
    load_pkcs12,
    read_file,
    uncovered_names,
)
from handshaked.registry.delivery import parse_delivery
from handshaked.registry.names import canonical_server_name, parse_alpn, show_alpn
from handshaked.registry.registration import Access, Policy, Registration
from handshaked.registry.snapshot import Query, Snapshot
from handshaked.registry.store import CredentialDetails, NewRegistration, Source, Store

log = logging.getLogger(__name__)

PAGE = 200
MAX_NAMES = 100
MAX_ALPNS = 32
MAX_CREDENTIALS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")

Result = dict[str, Any]


class Manager:
    """Commands on the registrations in `store`; `publish` makes a new snapshot known to all workers."""

    def __init__(self, store: Store, publish: Callable[[Snapshot], Awaitable[None]]) -> None:
        self._store = store
        self._publish = publish
        self.snapshot = store.load()

    async def register(self, caller: Caller, arguments: Arguments, descriptors: tuple[int, ...]) -> Result:
        """Add a registration; the files of its credentials come as open `descriptors`, in the order of their paths."""
        _require_administrator(caller, "register")
        force, replace = arguments.flag("force"), arguments.flag("replace")
        sources = [_source(one) for one in arguments.objects("credentials")]
        policy = Policy(
            deliver=parse_delivery(arguments.optional_text("deliver") or "accept").text,
            proxy_protocol=arguments.flag("proxy_protocol"),
        )
        if not sources and not policy.deliver.startswith("forward "):
            raise RefusedError("give --cert and --key: only a registration that forwards can do without")
        new = NewRegistration(
            name=_registration_name(arguments.text("name")),
            owner=caller.uid,
            server_names=_distinct("server name", map(canonical_server_name, arguments.texts("server_names"))),
            alpns=_distinct("ALPN", map(parse_alpn, arguments.texts("alpns"))),
            credentials=tuple(zip(_load_all(sources, descriptors), sources, strict=True)),
            policy=policy,
            access=Access(
                uids=frozenset(map(_uid, arguments.texts("allow_users"))),
                gids=frozenset(map(_gid, arguments.texts("allow_groups"))),
                kernel=arguments.flag("allow_kernel"),
            ),
        )
        arguments.end()
        _check(new, force=force)
        registration = self._store.register(new, replace=replace)
        await self._changed()
        log.info("registered %s by %s", registration.name, caller)
        return {"registration": self._shown(registration), "warnings": _warnings(new)}

    async def unregister(self, caller: Caller, arguments: Arguments) -> Result:
        """Remove a registration."""
        name = arguments.text("name")
        arguments.end()
        registration = self._named(name)
        if caller.uid != registration.owner:
            _require_administrator(caller, f"unregister {name!r}, which belongs to uid {registration.owner}")
        self._store.unregister(name)
        await self._changed()
        log.info("unregistered %s by %s", name, caller)
        return {}

    def registrations(self, caller: Caller, arguments: Arguments) -> Result:
        """A page of the registrations that `caller` may see, by name, behind the name ``after``."""
        after = arguments.optional_text("after") or ""
        arguments.end()
        visible = [
            registration
            for registration in self.snapshot.registrations
            if registration.name > after and _visible(caller, registration)
        ]
        return {"registrations": [self._shown(one) for one in visible[:PAGE]], "more": len(visible) > PAGE}

    def show(self, caller: Caller, arguments: Arguments) -> Result:
        """One registration with its credentials."""
        name = arguments.text("name")
        arguments.end()
        registration = self._named(name)
        if not _visible(caller, registration):
            raise RefusedError(f"there is no registration {name!r}")
        return {"registration": self._shown(registration)}

    def explain(self, caller: Caller, arguments: Arguments) -> Result:
        """What a ClientHello would get, and why, by the function that answers live handshakes."""
        user = arguments.optional_text("user")
        query = Query(
            caller=caller if user is None else _caller_named(user),
            server_name=arguments.optional_text("server_name"),
            alpns=tuple(map(parse_alpn, arguments.texts("alpns"))),
        )
        arguments.end()
        if query.caller != caller:
            _require_administrator(caller, "ask on behalf of another user")
        answer, verdicts = self.snapshot.explain(query)
        shown = [
            {
                "registration": verdict.registration.name,
                "matched_name": verdict.matched_name,
                "chosen": verdict.chosen,
                "reason": verdict.reason,
            }
            for verdict in verdicts
            if _visible(caller, verdict.registration)
        ]
        if isinstance(answer, HandshakeError):
            return {"alert": answer.alert.label, "reason": answer.reason, "candidates": shown}
        return {
            "registration": answer.registration.name,
            "alpn": show_alpn(answer.alpn),
            "certificate": answer.credential.leaf_digest.hex(),
            "key_type": answer.credential.key_type.value,
            "candidates": shown,
        }

    async def reload(self, caller: Caller) -> Result:
        """Read the credential files of all registrations again; what cannot be used leaves the old in place."""
        _require_administrator(caller, "reload")
        renewed, errors = [], []
        for registration in self.snapshot.registrations:
            details = self._store.details(registration)
            try:
                loaded = [_reread(one.source, registration.owner) for one in details]
                _check_credentials(loaded)
            except (OSError, RefusedError) as error:
                log.error("reload of %s: %s; the old credential stays", registration.name, error)
                errors.append(f"{registration.name}: {error}")
                continue
            if [one.leaf_digest for one in loaded] != [one.reference.leaf_digest for one in details]:
                self._store.replace_credentials(
                    registration, tuple(zip(loaded, (one.source for one in details), strict=True))
                )
                renewed.append(registration.name)
        await self._changed()
        log.info("reloaded: %d credentials renewed, %d errors", len(renewed), len(errors))
        return {"renewed": renewed, "errors": errors}

    async def _changed(self) -> None:
        self.snapshot = self._store.refresh(self.snapshot)
        await self._publish(self.snapshot)

    def _named(self, name: str) -> Registration:
        registration = self.snapshot.named(name)
        if registration is None:
            raise RefusedError(f"there is no registration {name!r}")
        return registration

    def _shown(self, registration: Registration) -> Result:
        return {
            "name": registration.name,
            "owner": registration.owner,
            "server_names": list(registration.server_names),
            "alpns": [show_alpn(alpn) for alpn in registration.alpns],
            "allow_users": sorted(registration.access.uids),
            "allow_groups": sorted(registration.access.gids),
            "allow_kernel": registration.access.kernel,
            "deliver": registration.policy.deliver,
            "proxy_protocol": registration.policy.proxy_protocol,
            "credentials": [_shown_credential(one) for one in self._store.details(registration)],
        }


def _shown_credential(details: CredentialDetails) -> Result:
    return {
        "key_type": details.reference.key_type.value,
        "sha256": details.reference.leaf_digest.hex(),
        "subject": details.subject,
        "not_before": details.not_before,
        "not_after": details.not_after,
        "certificate": details.source.certificate,
        "key": details.source.key,
    }


def _check(new: NewRegistration, *, force: bool) -> None:
    if not new.alpns:
        raise RefusedError("give at least one --alpn: certificates are chosen by server name and ALPN")
    if len(new.alpns) > MAX_ALPNS or len(new.server_names) > MAX_NAMES:
        raise RefusedError(f"a registration has at most {MAX_NAMES} server names and {MAX_ALPNS} ALPNs")
    if not force:
        _check_credentials([credential for credential, _ in new.credentials])


def _check_credentials(credentials: list[LoadedCredential]) -> None:
    for credential in credentials:
        check_validity(credential, time.time())


def _warnings(new: NewRegistration) -> list[str]:
    return [
        f"the certificate {credential.subject} does not cover {', '.join(uncovered)}"
        for credential, _ in new.credentials
        if (uncovered := uncovered_names(credential, new.server_names))
    ]


def _source(arguments: Arguments) -> Source:
    source = Source(
        certificate=arguments.text("certificate"),
        key=arguments.optional_text("key") or "",
        passphrase=arguments.optional_text("passphrase") or "",
    )
    arguments.end()
    return source


def _load_all(sources: list[Source], descriptors: tuple[int, ...]) -> list[LoadedCredential]:
    if len(sources) > MAX_CREDENTIALS:
        raise RefusedError(f"a registration has at most {MAX_CREDENTIALS} credentials")
    if len(descriptors) != sum(len(_paths(source)) for source in sources):
        raise RefusedError(f"{len(descriptors)} file descriptors came for the files of {len(sources)} credentials")
    left = iter(descriptors)
    return [_load(source, [next(left) for _ in _paths(source)]) for source in sources]


def _paths(source: Source) -> list[str]:
    return [path for path in (source.certificate, source.key, source.passphrase) if path]


def _load(source: Source, descriptors: list[int]) -> LoadedCredential:
    left = iter(descriptors)
    holds_key = source.key in ("", source.certificate)
    certificate = read_file(next(left), source.certificate, secret=holds_key)
    key = read_file(next(left), source.key, secret=True) if source.key else b""
    passphrase = None
    if source.passphrase:
        passphrase = read_file(next(left), source.passphrase, secret=True).rstrip(b"\r\n")
    if source.key:
        return load_pem(certificate, key, passphrase, names=(source.certificate, source.key))
    return load_pkcs12(certificate, passphrase, name=source.certificate)


def _reread(source: Source, owner: int) -> LoadedCredential:
    descriptors: list[int] = []
    try:
        for path in _paths(source):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            descriptors.append(descriptor)
            # The daemon may read more than the owner may: a link to somebody else's key must not work.
            if owner not in (0, os.geteuid()) and os.fstat(descriptor).st_uid != owner:
                raise RefusedError(f"{path}: belongs to another user than the registration; register again")
        return _load(source, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _distinct(what: str, values: Any) -> tuple[Any, ...]:
    found = tuple(values)
    if len(set(found)) != len(found):
        raise RefusedError(f"a {what} is given twice")
    return found


def _registration_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RefusedError(f"registration name {name!r}: use up to 128 letters, digits, and . _ @ -")
    return name


def _visible(caller: Caller, registration: Registration) -> bool:
    return caller.uid == os.geteuid() or registration.allows(caller)


def _require_administrator(caller: Caller, action: str) -> None:
    if caller.uid not in (0, os.geteuid()):
        raise RefusedError(f"uid {caller.uid} may not {action}: ask root, or the user the daemon runs as")


def _caller_named(user: str) -> Caller:
    if user == "kernel":
        return KERNEL
    uid = _uid(user)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid)
    return Caller(uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def _uid(user: str) -> int:
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise RefusedError(f"there is no user {user!r}") from None


def _gid(group: str) -> int:
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise RefusedError(f"there is no group {group!r}") from None
