"""Registration requests, with the same form and rules from commands, D-Bus and drop-in files."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.loading import paths_of, read_passed
from handshaked.control.requests.loading_sandbox import load_for
from handshaked.control.requests.permissions import gid_of, uid_of
from handshaked.control.requests.policies import TrustSource, load_trust, pull_policy, pull_trust, read_trust
from handshaked.registry.credentials import LoadedCredential, check_validity
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.registration import Access
from handshaked.registry.setting_types import Each
from handshaked.registry.settings import (
    ALLOW_GROUPS,
    ALLOW_KERNEL,
    ALLOW_USERS,
    ALPNS,
    CREDENTIAL,
    FORCE,
    SERVER_NAMES,
    Policy,
)
from handshaked.registry.store import ClientTrust, NewRegistration, Source

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """A requested registration in canonical form, without the content of its files and the ids of users and groups."""

    name: str
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    users: tuple[str, ...]
    groups: tuple[str, ...]
    kernel: bool
    sources: tuple[Source, ...]
    force: bool
    policy: Policy
    trust: TrustSource

    @property
    def forwards(self) -> bool:
        """True if connections are forwarded to a server that has its own keys."""
        return parse_delivery(self.policy.deliver).way is Way.FORWARD

    def resolved_access(self) -> Access:
        """Look up the users and groups. ArgumentError if one is unknown. May block: they may be on a server."""
        arguments = Arguments({ALLOW_USERS.name: self.users, ALLOW_GROUPS.name: self.groups})
        return Access(
            uids=frozenset(arguments.each(ALLOW_USERS.name, Each(uid_of, "user"))),
            gids=frozenset(arguments.each(ALLOW_GROUPS.name, Each(gid_of, "group"))),
            kernel=self.kernel,
        )

    def with_loaded(self, loaded: "Loaded", owner: int, origin: str = "") -> NewRegistration:
        """Return the registration to store. RefusedError if a certificate is not valid now, unless ``force``."""
        if not self.force:
            check_all_valid(loaded.credentials)
        return NewRegistration(
            name=self.name,
            owner=owner,
            server_names=self.server_names,
            alpns=self.alpns,
            credentials=tuple(zip(loaded.credentials, self.sources, strict=True)),
            access=loaded.access,
            policy=self.policy,
            origin=origin,
            client_trust=loaded.trust,
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """The contents of the files that a request refers to, and the users who may use the registration."""

    credentials: tuple[LoadedCredential, ...]
    trust: ClientTrust | None
    access: Access


def pull_request(arguments: Arguments) -> RegistrationRequest:
    """Return the request in `arguments`. ArgumentError if a setting is invalid, missing or unknown."""
    policy = pull_policy(arguments)
    request = RegistrationRequest(
        name=_registration_name(arguments.text("name")),
        server_names=arguments.setting(SERVER_NAMES),
        alpns=arguments.setting(ALPNS),
        users=arguments.setting(ALLOW_USERS),
        groups=arguments.setting(ALLOW_GROUPS),
        kernel=arguments.setting(ALLOW_KERNEL),
        sources=tuple(_sources(arguments)),
        force=arguments.setting(FORCE),
        policy=policy,
        trust=pull_trust(arguments, policy),
    )
    arguments.end()  # before what is missing: it may have been given under a wrong name
    if not request.sources and not request.forwards:
        raise ArgumentError(
            "certificate", "certificate and key are missing: only registrations with deliver=forward need none"
        )
    if not request.alpns and not request.kernel:
        raise ArgumentError(
            "alpns", "alpns is missing: give at least one, only registrations with allow-kernel need none"
        )
    return request


def load_passed(request: RegistrationRequest, descriptors: tuple[int, ...], owner: int) -> Loaded:
    """Return what `request` refers to, its files being open as `descriptors`. May block."""
    count = sum(len(paths_of(source)) for source in request.sources)
    contents = read_passed(request.sources, descriptors[:count])
    trust = load_trust(request.trust, read_trust(request.trust, descriptors[count:]))
    credentials = tuple(load_for(owner, *one) for one in zip(request.sources, contents, strict=True))
    return Loaded(credentials, trust, request.resolved_access())


def check_all_valid(credentials: Iterable[LoadedCredential]) -> None:
    """Raise RefusedError if one of `credentials` is expired or not yet valid."""
    for credential in credentials:
        check_validity(credential, time.time())


def _sources(arguments: Arguments) -> Iterator[Source]:
    for one in arguments.objects("credentials"):
        try:
            yield _source(one)
        except ArgumentError as error:
            raise ArgumentError("credentials", str(error)) from None


def _source(arguments: Arguments) -> Source:
    source = Source(**{file.name: arguments.setting(file) for file in CREDENTIAL})
    if not source.certificate:
        raise ArgumentError("certificate", "certificate is missing")
    arguments.end()
    return source


def _registration_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ArgumentError("name", f"invalid registration name {name!r}: use up to 128 letters, digits, and . _ @ -")
    return name
