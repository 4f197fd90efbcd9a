"""A registration: which names and protocols, with which credentials, for whom, how."""

from dataclasses import dataclass, field

from handshaked.model import Caller, KeyType
from handshaked.registry.settings import Policy

NO_ALPN = b""
"""Stands for the absence of ALPN, which is matched like a protocol: consumers of the kernel's TCP may do without."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a registration besides its owner and root."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class CredentialReference:
    """A credential as the snapshot knows it: enough to choose by; the store holds the rest under ``id``.

    ``leaf_digest`` is the SHA-256 of the leaf certificate, 32 bytes.
    """

    id: int
    key_type: KeyType
    leaf_digest: bytes


@dataclass(frozen=True, slots=True)
class Registration:
    """``server_names`` are canonical (empty: any name), ``alpns`` in the owner's order.

    Without ``alpns`` it serves clients that send none, as the kernel's consumers of TCP may.

    ``origin`` is the drop-in file that asks for it; empty: it was registered by a command.
    """

    id: int
    name: str
    owner: int
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    credentials: tuple[CredentialReference, ...]
    access: Access = field(default=Access())
    policy: Policy = field(default=Policy())
    origin: str = ""

    @property
    def internal(self) -> bool:
        """Whether it is the daemon's own, for its self-test: people cannot choose a name that starts with a dot."""
        return self.name.startswith(".")

    def allows(self, caller: Caller) -> bool:
        """Whether `caller` may have handshakes done with this registration."""
        if caller.kernel:
            return self.access.kernel
        return (
            caller.uid == self.owner
            or caller.uid == 0
            or caller.uid in self.access.uids
            or not self.access.gids.isdisjoint(caller.gids)
        )

    @property
    def pairs(self) -> list[tuple[str | None, bytes]]:
        """The (server name, ALPN) pairs this registration claims; each may be claimed once."""
        return [(name, alpn) for name in self.server_names or (None,) for alpn in self.alpns or (NO_ALPN,)]


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave for a user (or for the members of a group) to register `server_names` with `alpns` on their own.

    ``server_names`` are canonical; ``*.example.com`` covers every name one label below, and itself. Empty: only
    registrations without a name. ``kernel``: they may let the kernel use their registrations.
    """

    id: int
    uid: int | None
    gid: int | None
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    kernel: bool = False

    def is_for(self, caller: Caller) -> bool:
        """Whether `caller` holds it."""
        return (self.uid is not None and caller.uid == self.uid) or (self.gid is not None and self.gid in caller.gids)

    def covers(self, server_name: str | None, alpn: bytes) -> bool:
        """Whether the pair (`server_name` in canonical form, `alpn`) may be claimed by it."""
        if alpn not in self.alpns:
            return False
        if server_name is None:
            return not self.server_names
        return server_name in self.server_names or f"*.{server_name.partition('.')[2]}" in self.server_names
