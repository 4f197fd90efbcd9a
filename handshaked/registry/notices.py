"""Notices: what is wrong with a registration or a setting that is in use, and from when on.

Each is true from ``since`` to ``until``, so that they are made once, when files are loaded, and no file has to be read
to tell what is wrong at a given time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

from handshaked.errors import RefusedError
from handshaked.registry.credentials import (
    LeafSummary,
    LoadedCredential,
    date_and_time,
    leaf_summary,
    staple_status,
    uncovered_names,
)
from handshaked.registry.expiry import HOUR, warning_time
from handshaked.registry.store import ClientTrust
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_store
from handshaked.tls.x509.revocation import RevocationList
from handshaked.tls.x509.trust import TrustStore

_MAX_NAMES = 5
_MAX_LEFT_OUT = 10


@dataclass(frozen=True, slots=True)
class Notice:
    """A text for people, true from ``since`` to ``until`` (Unix seconds)."""

    text: str
    since: float = -inf
    until: float = inf

    def is_due(self, now: float) -> bool:
        """Return whether it is true at `now`."""
        return self.since <= now < self.until


def credential_notices(server_names: tuple[str, ...], chain: tuple[bytes, ...], ocsp: bytes | None) -> Iterator[Notice]:
    """Yield the notices about a credential of a registration that serves `server_names`."""
    leaf = leaf_summary(chain[0])
    missing = uncovered_names(leaf.names, server_names)
    if missing:
        yield Notice(f"{does_not_cover(leaf.subject, missing)}: clients of these names will refuse it")
    if server_names and not leaf.is_for_servers:
        yield Notice(
            f"the certificate {leaf.subject} is not for servers by its extended key usage: clients will refuse it"
        )
    yield from _staple_notices(leaf, chain, ocsp)


def does_not_cover(subject: str, names: list[str]) -> str:
    """Say that the certificate of `subject` does not cover server `names`, of which the first few are named."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"the certificate {subject} does not cover {', '.join(names[:_MAX_NAMES])}{more}"


def expiry_notices(loaded: LoadedCredential, path: str) -> Iterator[Notice]:
    """Yield the notices about the expiry of a credential that belongs to no registration, from the file `path`."""
    what, end = f"{path}: the certificate {loaded.subject}", loaded.not_after
    soon = warning_time(loaded.not_before, end)
    yield Notice(f"{what} expires on {date_and_time(end)}: renew it", soon, end)
    yield Notice(f"{what} expired on {date_and_time(end)}: renew it", since=end)
    if loaded.requires_staple:
        yield Notice(f"{what} requires a stapled OCSP response (must-staple), which only registrations have")


def _staple_notices(leaf: LeafSummary, chain: tuple[bytes, ...], ocsp: bytes | None) -> Iterator[Notice]:
    must = "; the certificate requires one (must-staple): clients will refuse it" if leaf.requires_staple else ""
    if ocsp is not None:
        end = staple_status(chain, ocsp, "OCSP response").end
        yield Notice(
            f"the OCSP response for {leaf.subject} has been out of date since {date_and_time(end)} and is not"
            f" stapled{must}: get a current one",
            since=end,
        )
    elif must:
        yield Notice(f"there is no OCSP response for {leaf.subject} to staple{must}")


def trust_notices(trust: ClientTrust, grace_hours: float) -> Iterator[Notice]:
    """Yield the notices about the trust anchors and revocation lists of a registration. May take seconds."""
    try:
        yield from store_notices(read_trust_store(trust.anchors, trust.anchors_path or "trust anchors"))
        if trust.has_revocations:
            path = trust.revocations_path or "revocation lists"
            yield from list_notices(read_revocation_lists(trust.revocations, path), grace_hours)
    except RefusedError as error:
        yield Notice(f"client certificates cannot be verified: {error}")


def store_notices(store: TrustStore) -> Iterator[Notice]:
    """Yield a notice for each certificate that was left out of a trust store."""
    for one in store.left_out[:_MAX_LEFT_OUT]:
        yield Notice(f"{one}: this certificate is not trusted, the others are")
    if len(store.left_out) > _MAX_LEFT_OUT:
        yield Notice(f"{len(store.left_out) - _MAX_LEFT_OUT} more certificates of that file are not trusted")


def list_notices(lists: Iterable[RevocationList], grace_hours: float) -> Iterator[Notice]:
    """Yield notices about revocation lists that are out of date; of each issuer, the newest one counts."""
    newest: dict[str, RevocationList] = {}
    for one in lists:
        newest[one.issuer_text] = max(newest.get(one.issuer_text, one), one, key=lambda each: each.end)
    for issuer, one in newest.items():
        what = f"the revocation list of {issuer}"
        refused = "certificates of that issuer are refused"
        if one.end == -inf:
            yield Notice(f"{what} has no nextUpdate, as if out of date: {refused}; install a list with nextUpdate")
            continue
        yield Notice(f"{what} is not valid before {date_and_time(one.begin)}: {refused}", until=one.begin)
        ended = f"{what} has been out of date since {date_and_time(one.end)}"
        final = one.end + grace_hours * HOUR
        yield Notice(
            f"{ended}, and is still accepted until {date_and_time(final)}: install a current list", one.end, final
        )
        yield Notice(f"{ended}: {refused}; install a current list", since=final)
