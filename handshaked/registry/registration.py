"""A registration: which names and protocols, with which credentials, for whom, how."""

from dataclasses import dataclass, field

from handshaked.model import Caller, KeyType


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
class Policy:
    """How handshakes of a registration are run: settings with defaults, of plain types (strings, numbers, tuples).

    The store keeps them by name, those that differ from their default only.

    ``deliver`` is how ``handshaked-demux`` delivers the connections: ``accept`` (a socket to the application),
    ``relay`` (one whose datagrams pass through the demultiplexer), or ``forward HOST:PORT`` (to a server there), with
    ``proxy_protocol`` behind a header that tells the client's address.
    """

    deliver: str = "accept"
    proxy_protocol: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """``server_names`` are canonical (empty: any name), ``alpns`` in the owner's order, never empty."""

    id: int
    name: str
    owner: int
    server_names: tuple[str, ...]
    alpns: tuple[bytes, ...]
    credentials: tuple[CredentialReference, ...]
    access: Access = field(default=Access())
    policy: Policy = field(default=Policy())

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
        return [(name, alpn) for name in self.server_names or (None,) for alpn in self.alpns]
