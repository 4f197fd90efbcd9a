"""Who may do what: root and the daemon's own user anything, owners what is theirs, others what a grant says."""

import grp
import os
import pwd
from collections.abc import Iterable
from typing import Protocol

from handshaked.errors import DeniedError, RefusedError
from handshaked.model import KERNEL, Caller
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.names import show_alpn
from handshaked.registry.registration import Access, Grant, Registration
from handshaked.registry.settings import Policy

MAX_REGISTRATIONS_BY_GRANT = 200


class Claim(Protocol):
    """What of a registration needs a right."""

    @property
    def server_names(self) -> tuple[str, ...]:
        """The names it is for."""

    @property
    def alpns(self) -> tuple[bytes, ...]:
        """The protocols it is for."""

    @property
    def access(self) -> Access:
        """Who may use it."""

    @property
    def policy(self) -> Policy:
        """How its handshakes are to be run, and its connections delivered."""


def is_administrator(caller: Caller) -> bool:
    """Whether `caller` may do anything."""
    return not caller.kernel and (caller.authorized or caller.uid in (0, os.geteuid()))


def require_administrator(caller: Caller, action: str) -> None:
    """DeniedError unless `caller` may do anything."""
    if not is_administrator(caller):
        raise DeniedError(f"uid {caller.uid} may not {action}: ask root, or the user the daemon runs as")


def require_owner(caller: Caller, registration: Registration, action: str) -> None:
    """DeniedError unless `registration` is the caller's; RefusedError if a file holds it."""
    if caller.kernel or caller.uid != registration.owner:
        require_administrator(caller, f"{action} {registration.name!r}, which belongs to uid {registration.owner}")
    if registration.origin:
        raise RefusedError(
            f"{registration.name!r} comes from {registration.origin}: change that file, then run: handshakectl reload"
        )


def require_grant(caller: Caller, new: Claim, grants: Iterable[Grant], held: int) -> None:
    """DeniedError unless `caller`, who has `held` registrations, may claim all that `new` asks for."""
    if is_administrator(caller):
        return
    own = [grant for grant in grants if grant.is_for(caller)]
    if not own:
        raise DeniedError(
            f"uid {caller.uid} may not register: root may run: handshakectl grant --user {caller.uid} --alpn A"
            " --server-name N"
        )
    if not new.alpns:
        raise DeniedError(f"uid {caller.uid} may not register without ALPN: grants name protocols")
    for server_name in new.server_names or (None,):
        for alpn in new.alpns:
            if not any(grant.covers(server_name, alpn) for grant in own):
                raise DeniedError(
                    f"uid {caller.uid} has no grant for server name {server_name or '(any)'} with ALPN"
                    f" {show_alpn(alpn)}; see: handshakectl grants"
                )
    if new.access.kernel and not any(grant.kernel for grant in own):
        raise DeniedError(f"uid {caller.uid} has no grant that lets the kernel use its registrations")
    if parse_delivery(new.policy.deliver).way is Way.FORWARD:
        raise DeniedError(
            f"uid {caller.uid} may not have connections forwarded: grants are for names, not for the network; ask root"
        )
    if held >= MAX_REGISTRATIONS_BY_GRANT:
        raise DeniedError(f"uid {caller.uid} has {held} registrations, the limit for those who register by a grant")


def may_see(caller: Caller, registration: Registration) -> bool:
    """Whether `caller` is told of `registration`."""
    return not registration.internal and (is_administrator(caller) or registration.allows(caller))


def caller_named(user: str) -> Caller:
    """The caller that a program of `user` (a name, a uid, or ``kernel``) would be."""
    if user == "kernel":
        return KERNEL
    uid = uid_of(user)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid)
    return Caller(uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def uid_of(user: str) -> int:
    """The uid of `user`, a name or a number."""
    try:
        return _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: of a null character
        raise RefusedError(f"there is no user {user!r}") from None


def gid_of(group: str) -> int:
    """The gid of `group`, a name or a number."""
    try:
        return _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise RefusedError(f"there is no group {group!r}") from None


def _number(text: str) -> int:
    if len(text) > 10 or int(text) >= 0xFFFFFFFF:  # -1 stands for nobody
        raise RefusedError(f"{text[:20]} is not a uid or gid")
    return int(text)
