"""External pre-shared keys (RFC 8446 section 4.2.11)."""

from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ExternalPsk:
    """A key that both sides were given beforehand, for use with one hash function; it shows in no repr."""

    identity: bytes
    key: bytes = field(repr=False)
    hash_name: Literal["sha256", "sha384"] = "sha256"


class PskSource(Protocol):
    """Where a server finds the key of an identity."""

    def find(self, identity: bytes) -> ExternalPsk | None:
        """The key that `identity` names, or None."""
        ...
