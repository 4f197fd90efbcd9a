"""The server's side of a handshake (RFC 8446 section 2 and appendix A.2)."""

import os
from hmac import compare_digest
from typing import ClassVar

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError
from handshaked.events import CryptoData, Event, HandshakeComplete
from handshaked.model import CipherSuite, ClientAuth, Direction, Group, Level
from handshaked.tls import codepoints as cp
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.authentication import (
    PeerCertificate,
    certificate_message,
    check_certificate_verify,
    decompressed,
    parse_chain,
)
from handshaked.tls.client_hello import ClientHelloMessage, pull_client_hello
from handshaked.tls.codec import push_extension
from handshaked.tls.codepoints import ExtensionType, HandshakeType
from handshaked.tls.key_exchange import answer_key_share
from handshaked.tls.key_schedule import KeySchedule
from handshaked.tls.machine import Handler, Machine, unexpected_transport_parameters
from handshaked.tls.negotiation import (
    check_quic_hello,
    check_second_hello,
    choose_group,
    choose_suite,
    require_credential,
)
from handshaked.tls.parameters import ClientHello, ServerParameters
from handshaked.tls.psk_selection import SelectedPsk, accepts_early_data, check_binder, select_psk
from handshaked.tls.server_flight import accepts_tickets, certificate_request, encrypted_extensions, new_session_tickets
from handshaked.tls.signatures import SUPPORTED_SCHEMES
from handshaked.tls.state import PROCEED, SERVER_QUIC, SERVER_TCP, ServerState, State


class ServerHandshake(Machine):
    """The server's side of one handshake: `receive` until there is a `client_hello`, `proceed`, then `receive`.

    ``early_data`` is None if the client offers none, else whether it was accepted (valid after ServerHello);
    ``legacy_session_id`` and ``peer_record_size_limit`` are for the record layer of TCP.
    """

    connected: ClassVar = ServerState.CONNECTED
    failed: ClassVar = ServerState.FAILED

    # Set during the handshake; no transition reaches a state that reads them before they are set.
    _parameters: ServerParameters
    _peer: PeerCertificate
    _client_handshake_secret: bytes
    _server_handshake_secret: bytes

    def __init__(self, *, quic: bool = True) -> None:
        super().__init__(ServerState.START, SERVER_QUIC if quic else SERVER_TCP, quic=quic)
        self.client_hello: ClientHello | None = None
        self.early_data: bool | None = None
        self.legacy_session_id = b""
        self.peer_record_size_limit: int | None = None
        self._hello: ClientHelloMessage | None = None
        self._server_name: str | None = None
        self._retry_group: Group | None = None
        self._psk: SelectedPsk | None = None
        self._accepts_tickets = False
        self._chain: tuple[bytes, ...] = ()

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        """Continue with `parameters`, selected by the `client_hello`. Returns and raises as `receive`."""
        events: list[Event] = []
        try:
            next_states = self._transitions[self._state].get(PROCEED)
            if next_states is None or self._hello is None:
                raise LocalError(f"cannot proceed in state: {self._state.value}")
            self._check_parameters(parameters, self._hello)
            self._parameters = parameters
            self._enter(self._answer(self._hello, events, now), next_states)
            self._sign_at_once(events)
        except HandshakeError:
            self._state = self.failed
            raise
        return events

    def _check_parameters(self, parameters: ServerParameters, hello: ClientHelloMessage) -> None:
        """Check that the caller's selection is complete, and was offered by the client."""
        if parameters.alpn is not None and parameters.alpn not in (hello.alpns or ()):
            raise LocalError("the selected application protocol was not offered")
        if parameters.client_auth is not ClientAuth.NONE and parameters.client_verifier is None:
            raise LocalError("client certificates are requested, but there is no verifier")
        if self._quic:
            if parameters.alpn is None:
                # RFC 9001 section 8.1
                raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "no application protocol in common")
            if parameters.transport_parameters is None:
                raise LocalError("the server's own transport parameters are missing")

    # ClientHello

    def _receive_hello(self, message: bytes, events: list[Event], now: float) -> State:
        # Nothing may follow a ClientHello before the server's answer.
        self._reassembler.expect_boundary()
        hello = pull_client_hello(message)
        if self._quic:
            check_quic_hello(hello)
        elif hello.transport_parameters is not None:
            raise unexpected_transport_parameters()
        if self._hello is not None:
            check_second_hello(self._hello, hello, self._retry_group)
            return self._answer(hello, events, now)
        self._hello = hello
        self._server_name = hello.server_name
        self.legacy_session_id = hello.legacy_session_id
        self.peer_record_size_limit = hello.record_size_limit
        schemes = hello.signature_schemes or ()
        self.client_hello = ClientHello(
            hello.server_name,
            hello.alpns or (),
            schemes,
            hello.transport_parameters,
            schemes if hello.signature_schemes_cert is None else hello.signature_schemes_cert,
        )
        return ServerState.RECVD_CH

    def _answer(self, hello: ClientHelloMessage, events: list[Event], now: float) -> State:
        """Send ServerHello to Finished, or a HelloRetryRequest."""
        parameters = self._parameters
        retried = self._schedule.suite if self._retry_group is not None else None
        psk = self._psk = select_psk(hello, parameters, retried, now, quic=self._quic)
        if psk is None:
            require_credential(hello, parameters)
        suite = retried or (
            psk.suite if psk is not None else choose_suite(parameters.cipher_suites, hello.cipher_suites)
        )
        group = choose_group(parameters.groups, hello)
        share = (hello.key_shares or {}).get(group)
        if hello.early_data:
            self.early_data = False
        if share is None:
            return self._retry(hello, suite, group, events)
        if retried is None:
            self._schedule = KeySchedule(suite)
        schedule = self._schedule
        if psk is not None:
            check_binder(schedule, hello, psk)
        schedule.update(hello.raw)
        if psk is not None and hello.early_data:
            self._accept_early_data(hello, psk, events, now)
        return self._send_flight(hello, group, share, events, now)

    def _accept_early_data(self, hello: ClientHelloMessage, psk: SelectedPsk, events: list[Event], now: float) -> None:
        if accepts_early_data(hello, psk, self._parameters, now):
            self.early_data = True
            self._log_to(self._parameters.keylog, hello.random)
            secret = self._schedule.derive(b"c e traffic", self._schedule.transcript_hash())
            events.append(self._secret(Level.EARLY, Direction.RECEIVE, secret))

    def _retry(self, hello: ClientHelloMessage, suite: CipherSuite, group: Group, events: list[Event]) -> ServerState:
        """Request a key share of `group` (RFC 8446 section 4.1.4)."""
        self._retry_group = group
        self._schedule = schedule = KeySchedule(suite)
        schedule.update(hello.raw)
        schedule.replace_first_hello()
        extensions = push_extension(ExtensionType.KEY_SHARE, group.to_bytes(2))
        request = messages.push_server_hello(cp.HELLO_RETRY_RANDOM, hello.legacy_session_id, suite, extensions)
        schedule.update(request)
        events.append(CryptoData(Level.INITIAL, request))
        return ServerState.RETRIED

    # The server's flight

    def _send_flight(
        self, hello: ClientHelloMessage, group: Group, share: bytes, events: list[Event], now: float
    ) -> State:
        schedule = self._schedule
        self._log_to(self._parameters.keylog, hello.random)
        public, shared_secret = answer_key_share(group, share)
        extensions = push_extension(ExtensionType.KEY_SHARE, ext.push_key_share(group, public))
        if self._psk is not None:
            extensions += push_extension(ExtensionType.PRE_SHARED_KEY, self._psk.index.to_bytes(2))
        server_hello = messages.push_server_hello(os.urandom(32), hello.legacy_session_id, schedule.suite, extensions)
        schedule.update(server_hello)
        schedule.enter_handshake(shared_secret)
        transcript_hash = schedule.transcript_hash()
        client_secret = self._client_handshake_secret = schedule.derive(b"c hs traffic", transcript_hash)
        server_secret = self._server_handshake_secret = schedule.derive(b"s hs traffic", transcript_hash)
        events += (
            CryptoData(Level.INITIAL, server_hello),
            self._secret(Level.HANDSHAKE, Direction.SEND, server_secret),
        )
        early = self.early_data is True and not self._quic
        if not early:
            events.append(self._secret(Level.HANDSHAKE, Direction.RECEIVE, client_secret))
        self._accepts_tickets = accepts_tickets(hello)
        self._hello = None
        self._reassembler.expect(Level.EARLY if early else Level.HANDSHAKE)
        return self._send(self._authentication(hello, now), ServerState.WAIT_SIGNATURE, events)

    def _authentication(self, hello: ClientHelloMessage, now: float) -> bytes:
        """Return EncryptedExtensions to Certificate, which are added to the transcript."""
        schedule, parameters, psk = self._schedule, self._parameters, self._psk
        flight = encrypted_extensions(
            hello,
            parameters,
            resumed=psk is not None and psk.external is None,
            early_data=self.early_data is True,
            quic=self._quic,
        )
        credential = parameters.credential
        if psk is not None or credential is None:
            schedule.update(flight)
            return flight
        flight += certificate_request(parameters)
        ocsp = hello.status_request and credential.has_staple(now)
        flight += certificate_message(credential, parameters.compressions, hello.compressions, ocsp=ocsp)
        schedule.update(flight)
        self._need_signature(credential, hello.signature_schemes or ())
        return flight

    def _finish(self, flight: bytes, events: list[Event]) -> State:
        schedule = self._schedule
        verify_data = schedule.profile.verify_data(self._server_handshake_secret, schedule.transcript_hash())
        finished = messages.push_finished(verify_data)
        schedule.update(finished)
        events.append(CryptoData(Level.HANDSHAKE, flight + finished))
        self._derive_application_secrets()
        events.append(self._secret(Level.APPLICATION, Direction.SEND, self._send_secret))
        early = self.early_data is True and not self._quic
        return ServerState.WAIT_EOED if early else self._after_early_data()

    def _after_early_data(self) -> ServerState:
        if self._psk is None and self._parameters.client_auth is not ClientAuth.NONE:
            return ServerState.WAIT_CERT
        return ServerState.WAIT_FINISHED

    # The client's flight

    def _receive_end_of_early_data(self, message: bytes, events: list[Event], now: float) -> ServerState:
        messages.pull_end_of_early_data(message)
        self._schedule.update(message)
        self._reassembler.expect(Level.HANDSHAKE)
        events.append(self._secret(Level.HANDSHAKE, Direction.RECEIVE, self._client_handshake_secret))
        return self._after_early_data()

    def _receive_certificate(self, message: bytes, events: list[Event], now: float) -> ServerState:
        return self._accept_certificate(message[4:], message, now)

    def _receive_compressed_certificate(self, message: bytes, events: list[Event], now: float) -> ServerState:
        return self._accept_certificate(decompressed(message, self._parameters.compressions), message, now)

    def _accept_certificate(self, body: bytes, message: bytes, now: float) -> ServerState:
        certificate = messages.pull_certificate(body)
        self._schedule.update(message)
        if not certificate.chain and not certificate.context:
            if self._parameters.client_auth is ClientAuth.REQUIRE:
                # RFC 8446 section 4.4.2.4
                raise PeerError(Alert.CERTIFICATE_REQUIRED, "the client sent no certificate")
            return ServerState.WAIT_FINISHED
        self._peer = parse_chain(certificate)
        if self._parameters.client_verifier is not None:
            self._parameters.client_verifier.verify(self._peer.chain, now)
        return ServerState.WAIT_CV

    def _receive_certificate_verify(self, message: bytes, events: list[Event], now: float) -> ServerState:
        schedule = self._schedule
        transcript_hash = schedule.transcript_hash()
        check_certificate_verify(self._peer, message, SUPPORTED_SCHEMES, transcript_hash, by_server=False)
        schedule.update(message)
        self._chain = self._peer.chain
        return ServerState.WAIT_FINISHED

    def _receive_finished(self, message: bytes, events: list[Event], now: float) -> ServerState:
        schedule, parameters, psk = self._schedule, self._parameters, self._psk
        profile = schedule.profile
        verify_data = messages.pull_finished(message, profile.size)
        expected = profile.verify_data(self._client_handshake_secret, schedule.transcript_hash())
        if not compare_digest(verify_data, expected):
            # RFC 8446 section 4.4.4
            raise PeerError(Alert.DECRYPT_ERROR, "invalid Finished from the client")
        self._reassembler.expect(Level.APPLICATION)
        schedule.update(message)
        events.append(self._secret(Level.APPLICATION, Direction.RECEIVE, self._receive_secret))
        resumed = psk is not None and psk.external is None
        chain = self._chain if psk is None else psk.chain
        if self._accepts_tickets and (psk is None or resumed):
            tickets = new_session_tickets(schedule, parameters, self._server_name, chain, now, quic=self._quic)
            if tickets:
                events.append(CryptoData(Level.APPLICATION, tickets))
        events.append(
            HandshakeComplete(
                parameters.alpn,
                self._server_name,
                schedule.suite,
                resumed,
                chain,
                parameters.registration,
                psk_identity=psk.external.identity if psk is not None and psk.external is not None else None,
                early_data_accepted=self.early_data is True,
            )
        )
        return ServerState.CONNECTED

    handlers: ClassVar[dict[int, Handler]] = {
        HandshakeType.KEY_UPDATE: Machine.receive_key_update,
        HandshakeType.CLIENT_HELLO: _receive_hello,
        HandshakeType.END_OF_EARLY_DATA: _receive_end_of_early_data,
        HandshakeType.CERTIFICATE: _receive_certificate,
        HandshakeType.COMPRESSED_CERTIFICATE: _receive_compressed_certificate,
        HandshakeType.CERTIFICATE_VERIFY: _receive_certificate_verify,
        HandshakeType.FINISHED: _receive_finished,
    }
