"""The files of a registration, and what was found in them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from handshaked.control.requests.loading import paths_of, reread, resolved
from handshaked.control.requests.loading_sandbox import load_for
from handshaked.control.requests.policies import TrustSource, load_trust, reread_trust
from handshaked.errors import RefusedError
from handshaked.registry.credentials import LoadedCredential
from handshaked.registry.store import ClientTrust, Source


@dataclass(frozen=True, slots=True)
class RegistrationFiles:
    """The files of a registration."""

    sources: tuple[Source, ...] = ()
    trust: TrustSource = field(default=TrustSource())

    @property
    def paths(self) -> list[str]:
        """Their paths as given."""
        return [*(path for source in self.sources for path in paths_of(source)), *self.trust.paths]

    @property
    def resolved(self) -> set[str]:
        """Their actual paths, with $CREDENTIALS_DIRECTORY replaced."""
        found = set()
        for path in self.paths:
            try:
                found.add(resolved(path))
            except RefusedError:
                continue  # this start of the service has no credentials; opening the file will report it
        return found

    def read(self, owner: int, known: Iterable["Content"]) -> "Content":
        """Return their content as read for `owner`, or the one of `known` with the same digest. May block."""
        contents = [reread(source, owner) for source in self.sources]
        trust = reread_trust(self.trust, owner)
        hashed = hashlib.sha256()
        for content in (content for one in (*contents, trust) for content in one):
            hashed.update(hashlib.sha256(content).digest())
        digest = hashed.digest()
        for found in known:
            if found.digest == digest:
                return found
        try:
            credentials = [load_for(owner, *one) for one in zip(self.sources, contents, strict=True)]
            return Content(digest, credentials, load_trust(self.trust, trust))
        except RefusedError as error:
            return Content(digest, refusal=str(error))


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a registration's files, identified by ``digest``.

    Either ``refusal`` says why it cannot be used, or it was loaded. Nothing loaded is kept once it is in the store.
    """

    digest: bytes
    credentials: list[LoadedCredential] | None = field(default=None, repr=False)
    trust: ClientTrust | None = field(default=None, repr=False)
    refusal: str = ""
