"""External pre-shared keys (RFC 8446 section 4.2.11)."""

from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ExternalPsk:
    """A key that was provisioned on both sides, for use with one hash function. The repr omits it."""

    identity: bytes
    key: bytes = field(repr=False)
    hash_name: Literal["sha256", "sha384"] = "sha256"


class PskSource(Protocol):
    """Looks up the keys of a server."""

    def find(self, identity: bytes) -> ExternalPsk | None:
        """Return the key of `identity`, or None."""
        ...
