"""The configured sides of the kernel's handshakes: the verifier of peers, the rules on them, our own credential."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from handshaked.configuration.handshaked_toml import SideDefaults
from handshaked.errors import RefusedError
from handshaked.model import Role
from handshaked.registry.credentials import LoadedCredential, check_purpose, load_pem, open_credential
from handshaked.registry.expiry import HOUR
from handshaked.registry.files import MAX_FILE, open_regular, read_file
from handshaked.registry.notices import Notice, expiry_notices, list_notices, store_notices
from handshaked.registry.peer_rules import PeerRules
from handshaked.system.capabilities import Capability, explain
from handshaked.tls.parameters import ClientCertificateVerifier, Credential, PeerVerifier
from handshaked.tls.x509.certificates import Purpose
from handshaked.tls.x509.readers import MAX_BUNDLE, MAX_LIST, read_revocation_lists, read_trust_store
from handshaked.tls.x509.revocation import RevocationList, RevocationLists
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier


@dataclass(frozen=True, slots=True)
class Side:
    """The configuration of a side, loaded. ``servers`` verifies a client's peers, ``clients`` a server's.

    Both are None without a configured trust store.
    """

    servers: PeerVerifier | None
    clients: ClientCertificateVerifier | None
    credential: Credential | None = field(repr=False)
    rules: PeerRules
    alpns: tuple[bytes, ...]
    notices: tuple[Notice, ...] = ()


class ReadFile(Protocol):
    """Returns the content of a file; RefusedError if it cannot be read or is longer than `limit` bytes."""

    def __call__(self, path: Path, limit: int, *, secret: bool) -> bytes:
        """Read the file at `path`, which others must not be able to read if it is `secret`."""
        ...


def read_side_file(path: Path, limit: int, *, secret: bool) -> bytes:
    """As ``ReadFile``, from the file system."""
    try:
        descriptor = open_regular(str(path))
        try:
            return read_file(descriptor, str(path), secret=secret, limit=limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RefusedError(f"{path}: {explain(error, Capability.DAC_READ_SEARCH)}") from None


def load_side(defaults: SideDefaults, role: Role, read: ReadFile = read_side_file) -> Side:
    """Load the files of the side that plays `role` with `read`; RefusedError names the one that cannot be used."""
    try:
        return _loaded(defaults, role, read)
    except RefusedError as error:
        raise RefusedError(f"[{role.name.lower()}] {error}") from None


def _loaded(defaults: SideDefaults, role: Role, read: ReadFile) -> Side:
    notices: list[Notice] = []
    trust = None
    if defaults.trust is not None:
        trust = read_trust_store(read(defaults.trust, MAX_BUNDLE, secret=False), str(defaults.trust))
        notices += store_notices(trust)
    grace = defaults.revocation_list_grace
    lists: list[RevocationList] = []
    for path in defaults.revocation_lists:
        lists += read_revocation_lists(read(path, MAX_LIST, secret=False), str(path))
    notices += list_notices(lists, grace)
    revocations = RevocationLists(lists, required=defaults.require_revocation_lists, grace=grace * HOUR)
    client = role is Role.CLIENT
    loaded = _credential(defaults, Purpose.CLIENT if client else Purpose.SERVER, read)
    if loaded is not None:
        notices += expiry_notices(loaded, str(defaults.certificate))
    return Side(
        servers=ServerChainVerifier(trust, revocations) if client and trust is not None else None,
        clients=ClientChainVerifier(trust, revocations) if not client and trust is not None else None,
        credential=None if loaded is None else open_credential(loaded.chain, loaded.key, loaded.key_type),
        rules=PeerRules(defaults.peers),
        alpns=defaults.alpns,
        notices=tuple(notices),
    )


class RuledServers:
    """Accepts servers that `verifier` accepts and `rules` allow. Implements ``PeerVerifier``."""

    def __init__(self, verifier: PeerVerifier, rules: PeerRules) -> None:
        self._verifier = verifier
        self._rules = rules

    @property
    def trust(self) -> bytes:
        """As ``PeerVerifier.trust``."""
        return _trust(self._verifier.trust, self._rules)

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        """As ``PeerVerifier.verify``."""
        self._verifier.verify(chain, server_name, now)
        self._rules.authorise(chain[0])


class RuledClients:
    """Accepts clients that `verifier` accepts and `rules` allow. Implements ``ClientCertificateVerifier``."""

    def __init__(self, verifier: ClientCertificateVerifier, rules: PeerRules) -> None:
        self._verifier = verifier
        self._rules = rules

    @property
    def trust(self) -> bytes:
        """As ``ClientCertificateVerifier.trust``."""
        return _trust(self._verifier.trust, self._rules)

    def verify(self, chain: tuple[bytes, ...], now: float) -> None:
        """As ``ClientCertificateVerifier.verify``."""
        self._verifier.verify(chain, now)
        self._rules.authorise(chain[0])


def _trust(verifier: bytes, rules: PeerRules) -> bytes:
    return hashlib.sha256(verifier + rules.digest).digest()


def _credential(defaults: SideDefaults, purpose: Purpose, read: ReadFile) -> LoadedCredential | None:
    if defaults.certificate is None or defaults.private_key is None:
        return None
    certificate = read(defaults.certificate, MAX_FILE, secret=False)
    key = read(defaults.private_key, MAX_FILE, secret=True)
    loaded = load_pem(certificate, key, names=(str(defaults.certificate), str(defaults.private_key)))
    check_purpose(loaded, purpose)
    return loaded
