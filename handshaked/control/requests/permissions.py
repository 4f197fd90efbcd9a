"""Authorization: root and the daemon's user may do anything, owners change their registrations, grants allow more."""

import grp
import os
import pwd
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from handshaked.callers.owners import owner_of
from handshaked.errors import DeniedError, RefusedError
from handshaked.model import KERNEL, Caller
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.names import show_alpn
from handshaked.registry.registration import Grant, Registration
from handshaked.registry.settings import Policy

MAX_REGISTRATIONS_BY_GRANT = 200


class Claim(Protocol):
    """The parts of a registration that require permission."""

    @property
    def server_names(self) -> tuple[str, ...]:
        """Its server names."""

    @property
    def alpns(self) -> tuple[bytes, ...]:
        """Its application protocols."""

    @property
    def kernel(self) -> bool:
        """True if kernel upcalls may use it."""

    @property
    def policy(self) -> Policy:
        """Settings of its handshakes and of the delivery of its connections."""


def is_administrator(caller: Caller) -> bool:
    """Return whether `caller` may do anything."""
    return not caller.kernel and (caller.authorized or caller.uid in (0, os.geteuid()))


def require_administrator(caller: Caller, action: str) -> None:
    """Raise DeniedError unless `caller` may do anything."""
    if not is_administrator(caller):
        raise DeniedError(f"uid {caller.uid} may not {action}: only root and the daemon's user may")


def require_owner(caller: Caller, registration: Registration, action: str) -> None:
    """Raise DeniedError unless `registration` belongs to `caller`; RefusedError if a drop-in file defines it."""
    if caller.kernel or caller.uid != registration.owner:
        require_administrator(caller, f"{action} {registration.name!r}, which belongs to uid {registration.owner}")
    if registration.origin:
        raise RefusedError(
            f"{registration.name!r} is defined in {registration.origin}: edit that file and run: handshakectl reload"
        )


def may_register(caller: Caller, grants: Iterable[Grant]) -> bool:
    """Return whether `caller` may register anything at all."""
    return is_administrator(caller) or any(grant.is_for(caller) for grant in grants)


def require_any_grant(caller: Caller, grants: Iterable[Grant]) -> None:
    """Raise DeniedError unless `caller` may register anything at all."""
    if not may_register(caller, grants):
        raise DeniedError(
            f"uid {caller.uid} has no grant to register; root can run: handshakectl grant --user {caller.uid} --alpn A"
            " --server-name N"
        )


def require_grant(caller: Caller, new: Claim, grants: Iterable[Grant], held: int) -> None:
    """Raise DeniedError unless `caller`, for whose account `held` registrations count, may register `new`."""
    if is_administrator(caller):
        return
    own = [grant for grant in grants if grant.is_for(caller)]
    require_any_grant(caller, own)
    if not new.alpns:
        raise DeniedError(f"uid {caller.uid} may not register without ALPN: grants are for protocols")
    for server_name in new.server_names or (None,):
        for alpn in new.alpns:
            if not any(grant.covers(server_name, alpn) for grant in own):
                raise DeniedError(
                    f"uid {caller.uid} has no grant for server name {server_name or '(any)'} with ALPN"
                    f" {show_alpn(alpn)}; see: handshakectl grants"
                )
    if new.kernel and not any(grant.kernel for grant in own):
        raise DeniedError(f"uid {caller.uid} has no grant that lets the kernel use its registrations")
    if parse_delivery(new.policy.deliver).way is Way.FORWARD:
        raise DeniedError(f"uid {caller.uid} may not use deliver=forward: grants do not include it, only root may")
    if held >= MAX_REGISTRATIONS_BY_GRANT:
        raise DeniedError(
            f"uid {caller.account} with its subordinate uids has {held} registrations, the limit for users with a grant"
        )


def count_held(caller: Caller, registrations: Iterable[Registration]) -> int:
    """Return how many of `registrations` count for the account of `caller`: those of all its uids."""
    by_owner = Counter(one.owner for one in registrations)
    return sum(count for owner, count in by_owner.items() if owner_of(owner) == caller.account)


def may_see(caller: Caller, registration: Registration) -> bool:
    """Return whether `caller` may see `registration`."""
    return not registration.internal and (is_administrator(caller) or registration.allows(caller))


def caller_named(user: str) -> Caller:
    """Return the caller that a program of `user` would be: a name, a uid, or ``kernel``. May block."""
    if user == "kernel":
        return KERNEL
    uid = uid_of(user)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid)
    return Caller(uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def uid_of(user: str) -> int:
    """Return the uid of `user`, a name or a number. May block: names may be on a server."""
    try:
        return _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: it contains a null character
        raise RefusedError(f"unknown user {user!r}") from None


def gid_of(group: str) -> int:
    """Return the gid of `group`, a name or a number. May block: names may be on a server."""
    try:
        return _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise RefusedError(f"unknown group {group!r}") from None


def _number(text: str) -> int:
    if len(text) > 10 or int(text) >= 0xFFFFFFFF:  # -1 is not a valid id
        raise RefusedError(f"{text[:20]} is not a uid or gid")
    return int(text)
