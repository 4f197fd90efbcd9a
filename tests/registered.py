"""Registrations without a database: a snapshot, and its resources."""

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import LocalError, Status
from handshaked.model import DEFAULT_CIPHER_SUITES, Caller, KeyType, Request, Role
from handshaked.registry.credentials import load_pem, open_credential
from handshaked.registry.registration import Access, CredentialReference, Registration
from handshaked.registry.snapshot import Selection, Snapshot
from handshaked.session.registered import Session, open_session
from handshaked.testing.authority import Authority, Issued
from handshaked.tls.keylog import KeyLog
from handshaked.tls.parameters import Credential, PeerVerifier, ServerParameters
from handshaked.tls.x509.readers import read_trust_anchors
from handshaked.tls.x509.verification import ServerChainVerifier

OWNER = Caller(uid=1000)
ACCESS = Access(uids=frozenset({os.getuid()}), kernel=True)


@dataclass
class Registered:
    """Registrations of certificates of `authority`."""

    authority: Authority
    registrations: list[Registration] = field(default_factory=list)
    credentials: dict[int, Credential] = field(default_factory=dict)
    keylog: KeyLog | None = None

    def add(
        self,
        name: str,
        *credentials: tuple[KeyType, Issued],
        names: tuple[str, ...] = (),
        alpns: tuple[bytes, ...] = (b"h3",),
    ) -> Registration:
        """Register `credentials`."""
        references = []
        for key_type, issued in credentials:
            loaded = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
            identity = len(self.credentials)
            self.credentials[identity] = open_credential(loaded.chain, loaded.key, key_type)
            references.append(CredentialReference(identity, key_type, loaded.leaf_digest))
        registration = Registration(len(self.registrations), name, OWNER.uid, names, alpns, tuple(references), ACCESS)
        self.registrations.append(registration)
        return registration

    @property
    def snapshot(self) -> Snapshot:
        """A snapshot of the registrations so far."""
        return Snapshot(self.registrations)

    def credential(self, identity: int, /) -> Credential:
        """Return a credential, as a store does."""
        try:
            return self.credentials[identity]
        except KeyError:
            raise LocalError("the credential was removed while the handshake ran", Status.NO_KEY) from None

    def server_verifier(self, request: Request) -> PeerVerifier:
        """Return a verifier that trusts the authority."""
        root = self.authority.certificate.public_bytes(Encoding.DER)
        return ServerChainVerifier(read_trust_anchors([root], "root"))

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        """Return parameters for the request and the selection."""
        return ServerParameters(
            credential=self.credential(selection.credential.id),
            alpn=selection.alpn,
            transport_parameters=transport_parameters,
            cipher_suites=request.cipher_suites or DEFAULT_CIPHER_SUITES,
            registration=selection.registration.name,
        )

    def session(self, role: Role, **request: object) -> Session:
        """Return a session for a request of OWNER."""
        asked: dict[str, object] = {"caller": OWNER, "timeout": 8.0, **request}
        return open_session(
            Request(role=role, **asked),  # type: ignore[arg-type] # the fields of a request, by name
            self.snapshot,
            self,
        )
