"""Registrations and grants: the values that the registry stores, and who may use them."""

from dataclasses import dataclass, field

from handshaked.model import Caller, KeyType
from handshaked.registry.settings import Policy

NO_ALPN = b""
"""The absence of ALPN, which is matched like a protocol: TCP consumers in the kernel need not send any."""


@dataclass(frozen=True, slots=True)
class Access:
    """The users who may use a registration besides its owner and root."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class CredentialReference:
    """A snapshot's description of a credential, enough to select one; the registry has the rest under ``id``.

    ``leaf_digest`` is the SHA-256 of the leaf certificate, 32 bytes.
    """

    id: int
    key_type: KeyType
    leaf_digest: bytes


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration: who may use which credentials, for which server names and ALPN protocols, and how.

    ``server_names`` are canonical (empty: any name), ``alpns`` in the owner's order. Without ``alpns`` it serves
    clients that send none, as TCP consumers in the kernel may. ``owner`` is a uid. ``origin`` is the drop-in file that
    defines the registration; empty: a command registered it.
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
        """True for the self-test's: users cannot choose a name that begins with a dot."""
        return self.name.startswith(".")

    def allows(self, caller: Caller) -> bool:
        """Return whether `caller` may use this registration."""
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
        """The (server name, ALPN) pairs that this registration holds; no two registrations hold the same one."""
        return [(name, alpn) for name in self.server_names or (None,) for alpn in self.alpns or (NO_ALPN,)]


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission for a user or the members of a group to register ``server_names`` with ``alpns``.

    ``server_names`` are canonical; ``*.example.com`` covers itself and every name one label below. Empty: only
    registrations without a name. ``kernel``: they may let the kernel use their registrations.
    """

    id: int
    uid: int | None
    gid: int | None
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    kernel: bool = False

    def is_for(self, caller: Caller) -> bool:
        """Return whether `caller` holds this grant."""
        return (self.uid is not None and caller.uid == self.uid) or (self.gid is not None and self.gid in caller.gids)

    def covers(self, server_name: str | None, alpn: bytes) -> bool:
        """Return whether the grant allows registering the pair of `server_name`, in canonical form, and `alpn`."""
        if alpn not in self.alpns:
            return False
        if server_name is None:
            return not self.server_names
        return server_name in self.server_names or f"*.{server_name.partition('.')[2]}" in self.server_names
