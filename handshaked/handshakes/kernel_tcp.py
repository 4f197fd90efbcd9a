"""Handshakes of the kernel over TCP, from a request, keyrings, the configuration and the registry.

A client always verifies its server. With ``unauth`` it presents no certificate (RFC 9289, ``xprtsec=tls``), with
``x509`` it does. A server with a trust store requests client certificates, without requiring them: its consumer decides
what an anonymous client may do.
"""

import logging
import socket
from collections.abc import Callable
from dataclasses import replace

from handshaked.configuration.handshaked_toml import Configuration
from handshaked.datapath.driver import Attempt
from handshaked.datapath.ktls import capabilities
from handshaked.datapath.tcp import Offload, TcpPath
from handshaked.errors import Alert, CallerError, LocalError, PeerError, RefusedError, Status
from handshaked.events import HandshakeComplete
from handshaked.handshakes import keyring
from handshaked.handshakes.keyring_psks import InvisibleKeyrings, KeyringPsks
from handshaked.handshakes.peer_keys import PeerKeys
from handshaked.handshakes.peer_policy import ReadFile, RuledClients, RuledServers, Side, load_side, read_side_file
from handshaked.handshakes.service import HandshakeService
from handshaked.model import AuthMode, CipherSuite, ClientAuth, Outcome, Request, Role
from handshaked.registry.credentials import load_keys, open_credential
from handshaked.registry.names import show_alpn
from handshaked.registry.peer_rules import PeerRules
from handshaked.registry.snapshot import Query, Selection
from handshaked.session.stream import ClientStreamSession, ServerStreamSession, StreamSession
from handshaked.tls.parameters import ClientHello, ClientParameters, Credential, ServerParameters
from handshaked.tls.record import MAX_INNER

log = logging.getLogger(__name__)


class KernelHandshakes:
    """Opens handshakes of the kernel at `service` by `configuration`, whose files `read` returns.

    RefusedError if it names an invalid file.
    """

    def __init__(
        self,
        service: HandshakeService,
        configuration: Configuration,
        offload: Offload,
        read: ReadFile = read_side_file,
    ) -> None:
        self._service = service
        self._offload = offload
        self.keyrings = keyring.RequestKeyrings()
        self.peer_keys = PeerKeys()
        self.invisible_keyrings = InvisibleKeyrings()
        self.configure(configuration, read)

    def configure(self, configuration: Configuration, read: ReadFile) -> None:
        """Use `configuration` from now on; on RefusedError nothing has changed."""
        client = load_side(configuration.client, Role.CLIENT, read)
        server = load_side(configuration.server, Role.SERVER, read)
        self.client: Side = client
        self.server: Side = server
        self.psk_keyrings = configuration.kernel.keyrings
        log.debug("keyrings linked: %s", ", ".join(self.link_keyrings()) or "none")

    def link_keyrings(self) -> list[str]:
        """Link the well-known and configured keyrings; return the names of those that exist."""
        return keyring.link_keyrings((*keyring.WELL_KNOWN, *self.psk_keyrings))

    def open(self, request: Request, sock: socket.socket, report: Callable[[Outcome], None]) -> Attempt:
        """Begin the handshake of `request` on `sock`; `report` is called with its outcome."""
        run = KernelRun(self, self._service, request)

        def finish(outcome: Outcome) -> None:
            run.close()
            report(outcome)

        path = TcpPath(sock, run.open_session, self._offload, run.conclude, finish)
        attempt = self._service.attempt(request, path.finish, lambda: run.registration)
        path.start(attempt)
        return attempt


class KernelRun:
    """One handshake: its session, and the identity of the peer at the end."""

    def __init__(self, handshakes: KernelHandshakes, service: HandshakeService, request: Request) -> None:
        self._handshakes = handshakes
        self._service = service
        self._snapshot = service.snapshot
        self._request = request
        self._rules = PeerRules()
        self._psks = KeyringPsks(request.identity_keys, handshakes.psk_keyrings)
        self._keyring: int | None = None
        self.registration: str | None = None

    def open_session(self) -> StreamSession:
        """Return the session for the request; HandshakeError if there can be none."""
        request = self.prepare(self._request)
        if request.role is Role.SERVER:
            return ServerStreamSession(self.choose)
        return ClientStreamSession(self.client_parameters())

    def prepare(self, request: Request) -> Request:
        """Use `request` from now on, and return it; HandshakeError if it cannot be served."""
        self._request = request
        if request.auth_mode is AuthMode.PSK or request.certificate_keys:
            # A consumer's module creates its keyring anew each time it is loaded.
            linked = self._handshakes.link_keyrings()
            if request.auth_mode is AuthMode.PSK:
                self._handshakes.invisible_keyrings.warn(linked)
            if request.keyring is not None:
                self._link(request.keyring)
        if request.auth_mode not in (AuthMode.UNAUTH, AuthMode.X509, AuthMode.PSK):
            raise CallerError(Alert.INTERNAL_ERROR, "the request has no authentication mode", Status.INVALID)
        return request

    def conclude(self, complete: HandshakeComplete) -> HandshakeComplete:
        """Return `complete` with the serials of the peer's keys, and with its tags."""
        if complete.psk_identity is not None:
            serial = self._psks.serial(complete.psk_identity)
            return complete if serial is None else replace(complete, peer_keys=(serial,))
        if not complete.peer_certificates:
            return complete
        leaf = complete.peer_certificates[0]
        peer = self._request.server_name or self._request.peer_address or "peer"
        serial = self._handshakes.peer_keys.serial(peer, leaf)
        return replace(complete, peer_keys=(serial,), tags=self._rules.authorise(leaf))

    def close(self) -> None:
        """Release the request's keyring."""
        if self._keyring is not None:
            self._handshakes.keyrings.release(self._keyring)

    def _link(self, serial: int) -> None:
        try:
            self._handshakes.keyrings.use(serial)
        except OSError as error:
            raise LocalError(
                f"the request's keyring {serial} is unusable: {keyring.explain(error)}", Status.NO_KEY
            ) from None
        self._keyring = serial

    # Client

    def client_parameters(self) -> ClientParameters:
        """Return a client's parameters for a handshake over TCP."""
        return self._psk_client() if self._request.auth_mode is AuthMode.PSK else self._certificate_client()

    def _certificate_client(self) -> ClientParameters:
        request, side = self._request, self._handshakes.client
        suites, record_size_limit = _records()
        self._rules = side.rules
        return ClientParameters(
            alpns=side.alpns,
            server_name=request.server_name or request.peer_address,
            transport_parameters=None,
            verifier=RuledServers(side.servers or self._service.resources.server_verifier(request), side.rules),
            credential=self._client_credential() if request.auth_mode is AuthMode.X509 else None,
            cipher_suites=suites,
            record_size_limit=record_size_limit,
            keylog=self._service.resources.keylog,
        )

    def _client_credential(self) -> Credential:
        credential = self._credential_of_keys() or self._handshakes.client.credential
        if credential is None:
            reason = "no client certificate: configure [client] certificate and private_key"
            raise LocalError(reason, Status.NO_KEY)
        return credential

    def _psk_client(self) -> ClientParameters:
        suites, record_size_limit = _records()
        return ClientParameters(
            alpns=(),
            server_name=None,
            transport_parameters=None,
            verifier=None,
            cipher_suites=suites,
            psk=self._psks.own(),
            record_size_limit=record_size_limit,
            keylog=self._service.resources.keylog,
        )

    # Server

    def choose(self, hello: ClientHello) -> ServerParameters:
        """Return a server's parameters for a handshake over TCP."""
        request = self._request
        suites, record_size_limit = _records()
        parameters = ServerParameters(
            credential=None,
            alpn=None,
            transport_parameters=None,
            cipher_suites=suites,
            record_size_limit=record_size_limit,
            keylog=self._service.resources.keylog,
        )
        if request.auth_mode is AuthMode.PSK:
            return replace(parameters, psks=self._psks)
        if (credential := self._credential_of_keys()) is not None:
            parameters = replace(parameters, credential=credential, alpn=self._own_alpn(hello))
            return self._asking_for_certificates(parameters, PeerRules())
        query = Query(
            request.caller, hello.server_name, hello.alpns, hello.signature_schemes, served_alpns=request.alpns
        )
        try:
            selection = self._snapshot.select(query)
        except PeerError:
            credential = self._handshakes.server.credential
            if credential is None:
                raise
            parameters = replace(parameters, credential=credential, alpn=self._own_alpn(hello))
            return self._asking_for_certificates(parameters, PeerRules())
        return self._registered(selection, parameters)

    def _registered(self, selection: Selection, parameters: ServerParameters) -> ServerParameters:
        """Return `parameters` with those of the selected registration."""
        request = self._request
        self.registration = selection.registration.name
        policy = selection.registration.policy
        answer = self._service.resources.answer(request, selection, None)
        parameters = replace(
            parameters,
            credential=answer.credential,
            alpn=selection.alpn or None,
            groups=answer.groups,
            registration=self.registration,
            owner=answer.owner,
            client_auth=answer.client_auth,
            client_verifier=answer.client_verifier,
        )
        if policy.cipher_suites:
            allowed = tuple(one for one in answer.cipher_suites if one in parameters.cipher_suites)
            parameters = replace(parameters, cipher_suites=allowed)
        return self._asking_for_certificates(parameters, PeerRules(policy.peers))

    def _own_alpn(self, hello: ClientHello) -> bytes | None:
        """Return the protocol of a server without registration, None if the client offers none.

        PeerError if it offers only others (RFC 7301 section 3.2).
        """
        served = self._request.alpns or self._handshakes.server.alpns
        selected = next((alpn for alpn in served if alpn in hello.alpns), None)
        if selected is None and hello.alpns:
            setting = "the socket's ALPN" if self._request.alpns else "alpn in [server]"
            offered = ", ".join(map(show_alpn, hello.alpns[:8]))
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, f"{setting} contains none of the client's ALPNs: {offered}")
        return selected

    def _asking_for_certificates(self, parameters: ServerParameters, rules: PeerRules) -> ServerParameters:
        """Return `parameters` with the requirements on the client's certificate: the registration's, or else ours."""
        side = self._handshakes.server
        self._rules = rules = rules or side.rules
        verifier = parameters.client_verifier or side.clients
        if self._request.auth_mode is not AuthMode.X509 or verifier is None:
            if rules.demand:
                raise LocalError("rules on peers require client certificates and a trust store", Status.NO_KEY)
            return replace(parameters, client_auth=ClientAuth.NONE, client_verifier=None)
        demanded = ClientAuth.REQUIRE if rules.demand else ClientAuth.REQUEST
        return replace(
            parameters,
            client_auth=max(parameters.client_auth, demanded),
            client_verifier=RuledClients(verifier, rules),
        )

    # Both

    def _credential_of_keys(self) -> Credential | None:
        """Return the credential that the request names by serials, or None."""
        for certificate, key in self._request.certificate_keys:
            try:
                loaded = load_keys(keyring.read_key(certificate), keyring.read_key(key))
            except OSError as error:
                reason = f"keys {certificate}, {key} cannot be read: {keyring.explain(error)}"
                raise LocalError(reason, Status.NO_KEY) from None
            except RefusedError as error:
                raise LocalError(f"keys {certificate}, {key} cannot be used: {error}", Status.NO_KEY) from None
            return open_credential(loaded.chain, loaded.key, loaded.key_type)
        return None


def _records() -> tuple[tuple[CipherSuite, ...], int | None]:
    """Return the cipher suites that the kernel's TLS supports, and the record size limit."""
    found = capabilities()
    return tuple(suite for suite in CipherSuite if suite in found.suites), MAX_INNER if found.limits else None
