"""A registration as it is asked for, by a command, over the bus or in a file: one form, one set of rules."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from handshaked.control.requests.arguments import ArgumentError, Arguments
from handshaked.control.requests.loading import paths_of, read_passed
from handshaked.control.requests.loading_sandbox import load_for
from handshaked.control.requests.permissions import gid_of, uid_of
from handshaked.control.requests.policies import TrustSource, load_trust, pull_policy, pull_trust, read_trust
from handshaked.registry.credentials import LoadedCredential, check_validity, uncovered_names
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
from handshaked.registry.store import NewRegistration, NewTrust, Source

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """What somebody asks for, in canonical form, without the content of its credentials."""

    name: str
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    access: Access
    sources: tuple[Source, ...]
    force: bool
    policy: Policy
    trust: TrustSource

    @property
    def forwards(self) -> bool:
        """Whether the connections go to a server that has keys of its own."""
        return parse_delivery(self.policy.deliver).way is Way.FORWARD

    def with_credentials(
        self, credentials: Iterable[LoadedCredential], trust: NewTrust | None, owner: int, origin: str = ""
    ) -> NewRegistration:
        """What the store is to keep. RefusedError if a certificate is out of date, unless that is asked for."""
        credentials = tuple(credentials)
        if not self.force:
            check_all_valid(credentials)
        return NewRegistration(
            name=self.name,
            owner=owner,
            server_names=self.server_names,
            alpns=self.alpns,
            credentials=tuple(zip(credentials, self.sources, strict=True)),
            access=self.access,
            policy=self.policy,
            origin=origin,
            client_trust=trust,
        )


def pull_request(arguments: Arguments) -> RegistrationRequest:
    """The request in `arguments`. RefusedError if there is anything else in there."""
    policy = pull_policy(arguments)
    request = RegistrationRequest(
        name=_registration_name(arguments.text("name")),
        server_names=arguments.setting(SERVER_NAMES),
        alpns=arguments.setting(ALPNS),
        access=Access(
            uids=frozenset(arguments.each(ALLOW_USERS.name, Each(uid_of, "user"))),
            gids=frozenset(arguments.each(ALLOW_GROUPS.name, Each(gid_of, "group"))),
            kernel=arguments.setting(ALLOW_KERNEL),
        ),
        sources=tuple(_sources(arguments)),
        force=arguments.setting(FORCE),
        policy=policy,
        trust=pull_trust(arguments, policy),
    )
    arguments.end()  # ahead of what is missing: that may be there under a wrong name
    if not request.sources and not request.forwards:
        raise ArgumentError("certificate", "give a certificate and a key: only a registration that forwards needs none")
    if not request.alpns and not request.access.kernel:
        raise ArgumentError("alpns", "give at least one ALPN: only clients of the kernel may come without")
    return request


def load_passed(
    request: RegistrationRequest, descriptors: tuple[int, ...], owner: int
) -> tuple[list[LoadedCredential], NewTrust | None]:
    """The credentials and the trust of `request` in the open files `descriptors`; it may take any time."""
    count = sum(len(paths_of(source)) for source in request.sources)
    contents = read_passed(request.sources, descriptors[:count])
    trust = load_trust(request.trust, read_trust(request.trust, descriptors[count:]))
    return [load_for(owner, *one) for one in zip(request.sources, contents, strict=True)], trust


def check_all_valid(credentials: Iterable[LoadedCredential]) -> None:
    """RefusedError if one of `credentials` is expired or not yet valid."""
    for credential in credentials:
        check_validity(credential, time.time())


def warnings(new: NewRegistration) -> list[str]:
    """What is allowed but hardly meant."""
    return [
        f"the certificate {credential.subject} does not cover {', '.join(uncovered)}"
        for credential, _ in new.credentials
        if (uncovered := uncovered_names(credential, new.server_names))
    ]


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
        raise ArgumentError("name", f"registration name {name!r}: use up to 128 letters, digits, and . _ @ -")
    return name
