"""The registry's interface: a Protocol for workers, one for control, and the values that they exchange.

SQLite is the only implementation (``sqlite_reader``, ``sqlite_writer``), and only the composition names it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol

from handshaked.errors import RefusedError
from handshaked.registry.credentials import LoadedCredential
from handshaked.registry.registration import Access, CredentialReference, Grant, Registration
from handshaked.registry.settings import Policy
from handshaked.registry.snapshot import Snapshot
from handshaked.tls.parameters import Credential

TICKET_KEY_ROTATION = 24 * 3600.0
"""Time in which a ticket key seals new tickets, in seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    """The paths of a credential's files, for renewal and for display. Empty: it does not come from a file."""

    certificate: str = ""
    key: str = ""
    passphrase: str = ""
    ocsp: str = ""


class ConflictError(RefusedError):
    """One of several registrations, `name`, cannot be added."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True, slots=True)
class NewRegistration:
    """A requested registration in canonical form, before it has an id."""

    name: str
    owner: int
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    credentials: tuple[tuple[LoadedCredential, Source], ...]
    access: Access = field(default=Access())
    policy: Policy = field(default=Policy())
    origin: str = ""
    client_trust: "ClientTrust | None" = None


@dataclass(frozen=True, slots=True)
class ClientTrust:
    """Trust anchors and revocation lists for client certificates: the contents of files, checked, and their paths."""

    anchors: bytes
    revocations: bytes = b""
    anchors_path: str = ""
    revocations_path: str = ""

    @property
    def has_revocations(self) -> bool:
        """True if revocation lists are configured. They must be readable then: an empty file is an error."""
        return bool(self.revocations or self.revocations_path)


@dataclass(frozen=True, slots=True)
class CredentialDetails:
    """Description of a registration's credential; times are in Unix seconds.

    ``chain_digest`` is the SHA-256 of all certificates of the chain, and of the OCSP response.
    """

    reference: CredentialReference
    chain_digest: bytes
    subject: str
    not_before: float
    not_after: float
    source: Source


class Lifetime(NamedTuple):
    """The lifetime of a registration's certificate, in Unix seconds."""

    registration: str
    subject: str
    not_before: float
    not_after: float


class RegistryReader(Protocol):
    """The registry as workers read it. UnavailableError if it does not answer."""

    def load(self) -> Snapshot:
        """Return all registrations."""
        ...

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """Return the current registrations, made from `snapshot` and what has changed since."""
        ...

    def credential(self, identity: int) -> Credential:
        """Return a credential by its id, ready for use; LocalError (ENOKEY) if it is gone."""
        ...

    def trust(self, identity: int) -> "ClientTrust":
        """Return trust anchors and revocation lists by their id; LocalError (ENOKEY) if they are gone."""
        ...

    def ticket_keys(self) -> list[tuple[float, bytes]]:
        """Return the session ticket secrets, oldest first, each with the time (Unix seconds) from which it seals."""
        ...

    def close(self) -> None:
        """Release the registry."""
        ...


class RegistryWriter(RegistryReader, Protocol):
    """The registry as control uses it. Each change is made as a whole or not at all; UnavailableError if it cannot be.

    A change is known to workers once they ``refresh``.
    """

    def register(self, new: NewRegistration, *, replace: bool = False) -> Registration:
        """Add a registration, or `replace` the one of that name.

        RefusedError if the name is taken, or if another registration holds one of its (server name, ALPN) pairs.
        """
        ...

    def unregister(self, name: str) -> None:
        """Remove a registration by its name; RefusedError if there is none."""
        ...

    def exchange(self, gone: Iterable[str], news: Iterable[NewRegistration]) -> list[Registration]:
        """Remove the registrations named `gone`, and add `news` or replace those of their names, in one change.

        ConflictError if one of `news` cannot be added.
        """
        ...

    def replace_credentials(
        self, registration: Registration, credentials: Iterable[tuple[LoadedCredential, Source]]
    ) -> None:
        """Replace all credentials of `registration`."""
        ...

    def replace_trust(self, registration: Registration, trust: "ClientTrust") -> None:
        """Replace the trust anchors and revocation lists of `registration`."""
        ...

    def details(self, registration: Registration) -> list[CredentialDetails]:
        """Return what is shown of the credentials of `registration`, in order."""
        ...

    def sources(self, first: int, last: int) -> dict[int, tuple[Source, ...]]:
        """Return the files of the credentials of the registrations with the ids `first` to `last`."""
        ...

    def chains(self, first: int, last: int) -> dict[int, list[tuple[tuple[bytes, ...], bytes | None]]]:
        """Return the chains (DER, leaf first) of the registrations with the ids `first` to `last`, in order.

        Each has its OCSP response, or None.
        """
        ...

    def trust_paths(self, identity: int) -> tuple[str, str]:
        """Return the files of trust anchors and of revocation lists by their id; empty: there is none."""
        ...

    def lifetimes(self, before: float = inf) -> list[Lifetime]:
        """Return the lifetimes of the certificates in use that end before `before` (Unix seconds), by their ends."""
        ...

    def unused(self) -> list[int]:
        """Return the ids of credentials that no registration uses; none of them will be used again."""
        ...

    def erase(self, unused: Iterable[int]) -> None:
        """Erase credentials by their ids, so that their keys are on no disk any more."""
        ...

    def forget_unused(self) -> None:
        """Erase credentials and trust that no registration uses, and the list of past changes.

        Call it only while no snapshot older than the current one is in use.
        """
        ...

    def rotate_ticket_keys(self, now: float) -> bool:
        """Add a ticket key if one is due at `now`, and erase expired ones; return whether workers have to refresh."""
        ...

    def add_grant(self, grant: Grant) -> Grant:
        """Store `grant` under a new id, and return it; or return the stored one with the same content."""
        ...

    def remove_grant(self, identity: int) -> None:
        """Revoke a grant by its id; RefusedError if there is none. Registrations made under it stay."""
        ...

    def grants(self) -> list[Grant]:
        """Return all grants, oldest first."""
        ...
