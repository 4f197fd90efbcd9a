"""Authorization: root and the daemon's user, owners, and holders of grants."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.callers import owners
from handshaked.control.requests.permissions import (
    MAX_REGISTRATIONS_BY_GRANT,
    caller_named,
    count_held,
    gid_of,
    is_administrator,
    may_see,
    require_grant,
    require_owner,
    uid_of,
)
from handshaked.control.requests.policies import TrustSource
from handshaked.control.requests.registration import RegistrationRequest
from handshaked.errors import DeniedError, RefusedError
from handshaked.model import KERNEL, Caller
from handshaked.registry.registration import Access, Grant, Registration
from handshaked.registry.settings import Policy

USER, GROUP = 5000, 6000
ME = Caller(USER, frozenset({GROUP}))
GRANT = Grant(1, USER, None, ("*.example.com", "exact.org"), (b"h3", b"smb"))


def wanted(*names: str, alpns: tuple[bytes, ...] = (b"h3",), kernel: bool = False) -> RegistrationRequest:
    """Return a registration to request."""
    return RegistrationRequest("r", names, alpns, (), (), kernel, (), False, Policy(), TrustSource())


def registration(owner: int, origin: str = "", name: str = "r") -> Registration:
    """Return a registration of `owner`."""
    return Registration(1, name, owner, (), (b"h3",), (), Access(uids=frozenset({7000})), origin=origin)


@pytest.mark.parametrize(
    "names", [("a.example.com",), ("*.example.com",), ("exact.org",), ("a.example.com", "exact.org")]
)
def test_grant_covers_its_names_and_those_one_label_below(names: tuple[str, ...]) -> None:
    require_grant(ME, wanted(*names, alpns=(b"h3", b"smb")), [GRANT], 0)


@pytest.mark.parametrize(
    "new",
    [
        wanted("a.b.example.com"), wanted("example.com"), wanted("*.exact.org"), wanted("a.exact.org"), wanted(),
        wanted("a.example.com", "other.net"), wanted("exact.org", alpns=(b"h3", b"h2")), wanted("exact.org", alpns=()),
        wanted("exact.org", kernel=True), wanted("exact.org", alpns=(), kernel=True),
    ],
)  # fmt: skip
def test_grant_covers_nothing_else(new: RegistrationRequest) -> None:
    with pytest.raises(DeniedError):
        require_grant(ME, new, [GRANT], 0)


def test_grant_does_not_include_forwarding() -> None:
    new = dataclasses.replace(wanted("exact.org"), policy=Policy(deliver="forward 10.0.0.1:53"))
    with pytest.raises(DeniedError, match="may not use deliver=forward"):
        require_grant(ME, new, [GRANT], 0)
    require_grant(Caller(0), new, [GRANT], 0)


def test_grant_is_only_for_its_user() -> None:
    with pytest.raises(DeniedError, match="handshakectl grant --user 5001"):
        require_grant(Caller(5001), wanted("exact.org"), [GRANT], 0)


def test_grant_for_a_group_is_for_its_members() -> None:
    grant = Grant(1, None, GROUP, ("exact.org",), (b"h3",), kernel=True)
    require_grant(ME, wanted("exact.org", kernel=True), [grant], 0)
    with pytest.raises(DeniedError):
        require_grant(Caller(USER), wanted("exact.org"), [grant], 0)


def test_grant_without_names_covers_only_registrations_without() -> None:
    grant = Grant(1, USER, None, (), (b"h3",))
    require_grant(ME, wanted(), [grant], 0)
    with pytest.raises(DeniedError):
        require_grant(ME, wanted("exact.org"), [grant], 0)


def test_registrations_of_users_with_grants_are_limited() -> None:
    require_grant(ME, wanted("exact.org"), [GRANT], MAX_REGISTRATIONS_BY_GRANT - 1)
    with pytest.raises(DeniedError, match="the limit"):
        require_grant(ME, wanted("exact.org"), [GRANT], MAX_REGISTRATIONS_BY_GRANT)


def test_registrations_of_all_uids_of_a_user_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "subuid").write_text(f"{USER}:100000:65536\n{USER + 1}:200000:65536\n")
    (tmp_path / "passwd").write_text("")
    monkeypatch.setattr(owners, "_OWNERS", owners.Owners(tmp_path / "subuid", tmp_path / "passwd"))
    held = [registration(owner) for owner in (USER, 100_000, 100_001, 100_001, USER + 1, 200_000, 7000)]
    subordinate = Caller(100_002, owner=USER)
    assert [count_held(one, held) for one in (ME, subordinate, Caller(USER + 1), Caller(7000))] == [4, 4, 2, 1]


def test_administrators_need_no_grant() -> None:
    for caller in (Caller(0), Caller(os.geteuid()), Caller(USER, authorized=True)):
        require_grant(caller, wanted("any.thing", alpns=(), kernel=True), [], 10_000)


@given(st.integers(1, 2**31).filter(lambda uid: uid != os.geteuid()), st.booleans())
def test_other_users_and_the_kernel_are_no_administrators(uid: int, kernel: bool) -> None:
    assert not is_administrator(Caller(uid, kernel=kernel))
    assert not is_administrator(KERNEL)


def test_only_owners_and_administrators_change_a_registration() -> None:
    require_owner(ME, registration(USER), "unregister")
    require_owner(Caller(0), registration(USER), "unregister")
    with pytest.raises(DeniedError, match="belongs to uid 5001"):
        require_owner(ME, registration(5001), "unregister")


def test_registration_of_a_drop_in_cannot_be_changed_by_commands() -> None:
    for caller in (Caller(0), ME):
        with pytest.raises(RefusedError, match=r"/etc/x\.toml"):
            require_owner(caller, registration(USER, origin="/etc/x.toml"), "unregister")


def test_registration_is_visible_to_those_who_may_use_it() -> None:
    assert may_see(ME, registration(USER))
    assert may_see(Caller(7000), registration(USER))
    assert not may_see(Caller(7001), registration(USER))
    assert not may_see(Caller(0), registration(0, name=".self-test"))


def test_users_are_given_by_name_or_number() -> None:
    assert uid_of("root") == uid_of("0") == 0
    assert caller_named("kernel") == KERNEL
    assert 0 in caller_named("root").gids
    for user in ("no-such-user", "4294967295", "9" * 5000, "0" * 11 + "5000", "ro\0ot"):
        with pytest.raises(RefusedError):
            uid_of(user)
        with pytest.raises(RefusedError):
            gid_of(user)
