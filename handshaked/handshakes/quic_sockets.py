"""Handshakes on QUIC sockets, for callers and for the kernel, from socket, request, files and registry."""

import socket
from collections.abc import Callable
from dataclasses import replace

from handshaked.datapath.driver import Attempt
from handshaked.datapath.quic import QuicPath, SocketState
from handshaked.datapath.quic_options import NO_CLIENT_CERTIFICATE
from handshaked.datapath.quic_socket import QuicSocket
from handshaked.errors import HandshakeError, LocalError, Status
from handshaked.events import HandshakeComplete
from handshaked.handshakes.caller_credentials import NO_CREDENTIALS, CallerCredentials, CredentialFiles
from handshaked.handshakes.kernel_tcp import KernelHandshakes, KernelRun
from handshaked.handshakes.resources import client_verifier
from handshaked.handshakes.service import HandshakeService
from handshaked.model import DEFAULT_CIPHER_SUITES, AuthMode, ClientAuth, Outcome, Request, Role
from handshaked.registry.snapshot import Selection
from handshaked.session.given import GivenClientSession, GivenServerSession, choose_alpn
from handshaked.session.registered import Resources, Session, client_host, open_session
from handshaked.tls.parameters import (
    ClientHello,
    ClientParameters,
    Credential,
    PeerVerifier,
    ServerParameters,
    Tickets,
)
from handshaked.tls.tickets import RotatingTicketKeys

OpenSocket = Callable[[socket.socket], QuicSocket]
"""Returns the QUIC socket of a descriptor; LocalError if it is not one."""

_SEALING_KEY = 64


class QuicSocketHandshakes:
    """Opens handshakes at `service` on QUIC sockets, which `open_socket` recognizes."""

    def __init__(self, service: HandshakeService, open_socket: OpenSocket) -> None:
        self._service = service
        self._open_socket = open_socket

    def open(
        self, request: Request, sock: socket.socket, files: CredentialFiles | None, report: Callable[[Outcome], None]
    ) -> Attempt:
        """Begin the handshake of `request` on `sock` once `files` are read; `report` is called with its outcome."""
        run = _Run(self._service, request)
        attempt, start = self._prepare(request, sock, run, report)

        def go_on(credentials: CallerCredentials | HandshakeError) -> None:
            if isinstance(credentials, HandshakeError):
                attempt.abort(credentials.status, credentials.reason)
                return
            run.credentials = credentials
            start()

        if files is None:
            start()
        else:
            files.when_read(go_on)
        return attempt

    def open_for_kernel(
        self, kernel: KernelHandshakes, request: Request, sock: socket.socket, report: Callable[[Outcome], None]
    ) -> Attempt:
        """As `open`, for a consumer in the kernel, with the configuration of `kernel`."""
        run = _KernelRun(self._service, request, kernel)

        def finish(outcome: Outcome) -> None:
            run.close()
            report(outcome)

        attempt, start = self._prepare(request, sock, run, finish)
        start()
        return attempt

    def _prepare(
        self, request: Request, sock: socket.socket, run: "_Run | _KernelRun", report: Callable[[Outcome], None]
    ) -> tuple[Attempt, Callable[[], None]]:
        """Return the attempt, whose deadline runs from now, and a function that starts it."""
        try:
            quic_socket = self._open_socket(sock)
        except HandshakeError as error:
            failed = self._service.attempt(request, report, lambda: None)
            failed.abort(error.status, error.reason)
            return failed, lambda: None
        path = QuicPath(quic_socket, request.role, run.open_session, run.conclude, report)
        attempt = self._service.attempt(request, path.finish, lambda: run.registration)
        return attempt, lambda: path.start(attempt)


class _Run:
    """One handshake of a caller: by the registry, or with ``credentials`` of its own."""

    def __init__(self, service: HandshakeService, request: Request) -> None:
        self.credentials = NO_CREDENTIALS
        self._service = service
        self._request = request
        self._session: Session | None = None

    @property
    def registration(self) -> str | None:
        """The name of the selected registration, if any."""
        return None if self._session is None else self._session.registration

    def open_session(self, state: SocketState) -> Session:
        """As ``datapath.quic.OpenSession``."""
        credentials = self.credentials
        self._request = request = _with_socket_settings(self._request, state)
        if credentials == NO_CREDENTIALS:
            self._session = self._registered(request, state)
        elif request.role is Role.SERVER:
            self._session = GivenServerSession(lambda hello: self._choose(hello, credentials, state))
        else:
            credential = credentials.credential if _may_present_certificate(state) else None
            own = None if credentials.psks is None else credentials.psks.own()
            verifier = self._verifier(request) if own is None else None
            parameters = _client_parameters(request, credential, verifier)
            keylog = self._service.resources.keylog
            self._session = GivenClientSession(replace(parameters, psk=own, keylog=keylog))
        return self._session

    def conclude(self, complete: HandshakeComplete) -> HandshakeComplete:
        """As ``datapath.quic.Conclude``."""
        return complete

    def _registered(self, request: Request, state: SocketState) -> Session:
        resources: Resources = self._service.resources
        if request.role is Role.SERVER and state.config.certificate_request:
            resources = _StricterClientAuth(resources, _client_auth(state))
        return open_session(request, self._service.snapshot, resources)

    def _verifier(self, request: Request) -> PeerVerifier | None:
        return None if request.auth_mode is AuthMode.UNAUTH else self._service.resources.server_verifier(request)

    def _choose(self, hello: ClientHello, credentials: CallerCredentials, state: SocketState) -> ServerParameters:
        request = self._request
        auth = _client_auth(state)
        parameters = ServerParameters(
            credential=credentials.credential,
            alpn=choose_alpn(hello, request.alpns),
            transport_parameters=None,
            cipher_suites=request.cipher_suites or DEFAULT_CIPHER_SUITES,
            owner=request.caller.uid,
            tickets=_tickets(state),
            psks=credentials.psks,
            keylog=self._service.resources.keylog,
        )
        if auth is ClientAuth.NONE:
            return parameters
        return replace(parameters, client_auth=auth, client_verifier=client_verifier(request))


class _KernelRun:
    """One handshake of a consumer in the kernel: as over TCP, with QUIC's additions."""

    def __init__(self, service: HandshakeService, request: Request, kernel: KernelHandshakes) -> None:
        self._service = service
        self._kernel = kernel
        self._request = request
        self._run = KernelRun(kernel, service, request)
        self.conclude = self._run.conclude
        self.close = self._run.close

    @property
    def registration(self) -> str | None:
        """The name of the selected registration, if any."""
        return self._run.registration

    def open_session(self, state: SocketState) -> Session:
        """As ``datapath.quic.OpenSession``."""
        request = self._run.prepare(_with_socket_settings(self._request, state))
        if request.role is Role.SERVER:
            return GivenServerSession(lambda hello: self._choose(hello, request, state))
        parameters = self._run.client_parameters()
        return GivenClientSession(
            replace(
                parameters,
                alpns=request.alpns or parameters.alpns,
                transport_parameters=state.transport_parameters,
                cipher_suites=request.cipher_suites or parameters.cipher_suites,
                credential=parameters.credential if _may_present_certificate(state) else None,
                record_size_limit=None,
                session_ticket=request.session_ticket,
            )
        )

    def _choose(self, hello: ClientHello, request: Request, state: SocketState) -> ServerParameters:
        parameters = self._run.choose(hello)
        verifies = parameters.client_verifier is not None
        if not verifies and parameters.psks is None and _client_auth(state) is ClientAuth.REQUIRE:
            raise LocalError(
                "the socket requires client certificates: configure [server] trust to verify them", Status.NO_KEY
            )
        return replace(
            parameters,
            alpn=parameters.alpn or choose_alpn(hello, request.alpns),
            cipher_suites=request.cipher_suites or parameters.cipher_suites,
            record_size_limit=None,
            tickets=_tickets(state),
            client_auth=max(parameters.client_auth, _client_auth(state)) if verifies else ClientAuth.NONE,
        )


class _StricterClientAuth:
    """`resources` for a server whose socket may require client certificates that the registration does not."""

    def __init__(self, resources: Resources, client_auth: ClientAuth) -> None:
        self._resources = resources
        self._client_auth = client_auth
        self.credential = resources.credential
        self.server_verifier = resources.server_verifier
        self.keylog = resources.keylog

    def answer(self, request: Request, selection: Selection, transport_parameters: bytes | None) -> ServerParameters:
        """As ``Resources.answer``."""
        policy = selection.registration.policy
        client_auth = max(self._client_auth, ClientAuth[policy.client_auth.upper()])
        policy = replace(policy, client_auth=client_auth.name.lower())
        registration = replace(selection.registration, policy=policy)
        return self._resources.answer(request, replace(selection, registration=registration), transport_parameters)


def _with_socket_settings(request: Request, state: SocketState) -> Request:
    """Return `request` with the settings of the socket; those of the request take precedence."""
    client = request.role is Role.CLIENT
    return replace(
        request,
        alpns=request.alpns or state.alpns,
        transport_parameters=state.transport_parameters,
        cipher_suites=state.config.cipher_suites or request.cipher_suites,
        session_ticket=request.session_ticket or (state.session_ticket or None if client else None),
        registration=request.registration if _may_present_certificate(state) or not client else None,
    )


def _client_parameters(
    request: Request, credential: Credential | None, verifier: PeerVerifier | None
) -> ClientParameters:
    name = request.server_name or request.peer_address
    return ClientParameters(
        alpns=request.alpns,
        server_name=client_host(name) if name else None,
        transport_parameters=request.transport_parameters,
        verifier=verifier,
        credential=credential,
        cipher_suites=request.cipher_suites or DEFAULT_CIPHER_SUITES,
        session_ticket=request.session_ticket,
        early_data=request.early_data is not None,
    )


def _may_present_certificate(state: SocketState) -> bool:
    """Return whether a client may present a certificate."""
    return state.config.certificate_request != NO_CLIENT_CERTIFICATE


def _client_auth(state: SocketState) -> ClientAuth:
    wanted = state.config.certificate_request
    return ClientAuth(wanted) if wanted in (ClientAuth.REQUEST, ClientAuth.REQUIRE) else ClientAuth.NONE


def _tickets(state: SocketState) -> Tickets | None:
    """Return tickets sealed with the key that the socket inherited from its listener, or None without a key."""
    if len(state.session_ticket) != _SEALING_KEY or not any(state.session_ticket):
        return None
    return Tickets(RotatingTicketKeys([(0.0, state.session_ticket)], rotation=float("inf")))
