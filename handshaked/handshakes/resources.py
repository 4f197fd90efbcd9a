"""The credentials, verifiers and ticket keys that a worker's handshakes use, read from the registry and cached.

A registration's policy is translated into the engine's parameters here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from handshaked.errors import Alert, CallerError, LocalError, Status, UnavailableError, UnreadableError
from handshaked.handshakes.system_trust import SystemTrust
from handshaked.model import DEFAULT_CIPHER_SUITES, CipherSuite, ClientAuth, Group, Request
from handshaked.registry.expiry import HOUR
from handshaked.registry.notices import Notice, store_notices
from handshaked.registry.settings import Policy
from handshaked.registry.snapshot import Selection
from handshaked.registry.store import TICKET_KEY_ROTATION, RegistryReader
from handshaked.tls.keylog import KeyLog
from handshaked.tls.parameters import (
    DEFAULT_GROUPS,
    ClientCertificateVerifier,
    Credential,
    EarlyData,
    PeerVerifier,
    ReplayGuard,
    ServerParameters,
    Tickets,
)
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_anchors, read_trust_store
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.trust import TrustStore
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier

_CACHED_CREDENTIALS = 4096
_CACHED_TRUST_STORES = 64
_system_trust = SystemTrust()


class StoredResources:
    """Resources from the registry; early data is refused without a `replay_guard`. Implements ``Resources``."""

    def __init__(
        self, store: RegistryReader, replay_guard: ReplayGuard | None = None, keylog: KeyLog | None = None
    ) -> None:
        self.keylog = keylog
        self._store = store
        self._replay_guard = replay_guard
        self._ticket_keys = RotatingTicketKeys([])
        self.credential = lru_cache(maxsize=_CACHED_CREDENTIALS)(self._load_credential)
        self._client_trust = lru_cache(maxsize=_CACHED_TRUST_STORES)(self._load_client_trust)
        self.refresh()

    def refresh(self) -> None:
        """Read the registry's current ticket keys."""
        self._ticket_keys = RotatingTicketKeys(self._store.ticket_keys(), TICKET_KEY_ROTATION)

    def forget(self) -> None:
        """Drop all cached credentials and trust anchors; those still in use are read again."""
        self.credential.cache_clear()
        self._client_trust.cache_clear()

    def server_verifier(self, request: Request) -> PeerVerifier:
        """Return the verifier for the server of a client's `request`; CallerError if its anchors are unreadable."""
        if not request.trust_anchors:
            return _verifier_by_system(_system_trust.store())
        return _verifier_by(request.trust_anchors)

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        """Return the engine's parameters for a selection, according to the registration's policy.

        LocalError if its credential or its trust cannot be used.
        """
        policy = selection.registration.policy
        client_auth = ClientAuth[policy.client_auth.upper()]
        verifier = None if client_auth is ClientAuth.NONE else self._client_verifier(policy)
        return ServerParameters(
            credential=self.credential(selection.credential.id),
            alpn=selection.alpn,
            transport_parameters=transport_parameters,
            cipher_suites=_cipher_suites(request, policy),
            groups=tuple(Group[name] for name in policy.groups) or DEFAULT_GROUPS,
            registration=selection.registration.name,
            owner=selection.registration.owner,
            client_auth=client_auth,
            client_verifier=verifier,
            tickets=Tickets(self._ticket_keys, policy.tickets) if policy.tickets else None,
            early_data=self._early_data(request, policy),
            keylog=self.keylog,
        )

    def _early_data(self, request: Request, policy: Policy) -> EarlyData | None:
        if not policy.early_data or request.early_data is None or self._replay_guard is None:
            return None
        return EarlyData(self._replay_guard, request.early_data)

    def _load_credential(self, identity: int) -> Credential:
        with _readable():
            return self._store.credential(identity)

    def _client_verifier(self, policy: Policy) -> ClientCertificateVerifier:
        """Return the verifier for the trust of a registration with `policy`, by default the system's."""
        if policy.client_trust == 0:
            return ClientChainVerifier(_system_trust.store())
        return self._client_trust(policy.client_trust, policy.crl_grace)

    def _load_client_trust(self, identity: int, grace_hours: int) -> ClientCertificateVerifier:
        """Return the verifier for the trust with that id.

        Its revocation lists are accepted for `grace_hours` after their nextUpdate.
        """
        with _readable():
            trust = self._store.trust(identity)
        try:
            anchors = read_trust_store(trust.anchors, trust.anchors_path or "trust anchors")
            lists = []
            if trust.has_revocations:
                lists = read_revocation_lists(trust.revocations, trust.revocations_path or "revocation lists")
        except UnreadableError as error:
            raise LocalError(f"client certificates cannot be verified: {error}", Status.NO_KEY) from None
        return ClientChainVerifier(anchors, RevocationLists(lists, grace=grace_hours * HOUR))


@contextmanager
def _readable() -> Iterator[None]:
    """Let a handshake fail, and nothing else, if the registry cannot be read."""
    try:
        yield
    except UnavailableError as error:
        raise LocalError(f"the registry cannot be read: {error}", Status.NO_KEY) from None


def _cipher_suites(request: Request, policy: Policy) -> tuple[CipherSuite, ...]:
    """Return the registration's cipher suites, limited to those of the request and in its order."""
    allowed = tuple(CipherSuite[name] for name in policy.cipher_suites) or tuple(CipherSuite)
    if request.cipher_suites:
        return tuple(suite for suite in request.cipher_suites if suite in allowed)
    return allowed if policy.cipher_suites else DEFAULT_CIPHER_SUITES


def client_verifier(request: Request) -> ClientCertificateVerifier:
    """Return the verifier for clients of a server without registration."""
    if not request.trust_anchors:
        return ClientChainVerifier(_system_trust.store())
    return ClientChainVerifier(_anchors_of_request(request.trust_anchors))


@lru_cache(maxsize=_CACHED_TRUST_STORES)
def _verifier_by(anchors: tuple[bytes, ...]) -> PeerVerifier:
    return ServerChainVerifier(_anchors_of_request(anchors))


def _anchors_of_request(anchors: tuple[bytes, ...]) -> TrustStore:
    try:
        return read_trust_anchors(anchors, "trust anchors of the request")
    except UnreadableError as error:
        raise CallerError(Alert.INTERNAL_ERROR, str(error), Status.INVALID) from None


@lru_cache(maxsize=1)
def _verifier_by_system(anchors: TrustStore) -> PeerVerifier:
    return ServerChainVerifier(anchors)


def system_trust_notices() -> list[Notice]:
    """Return the notices about the system's trust store; none if it cannot be used, as not everybody needs it."""
    try:
        return list(store_notices(_system_trust.store()))
    except LocalError:
        return []
