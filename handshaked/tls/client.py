"""The client's side of a handshake (RFC 8446 section 2 and appendix A.1)."""

from hmac import compare_digest
from typing import ClassVar

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError, QuicViolationError
from handshaked.events import (
    CryptoData,
    Event,
    HandshakeComplete,
    PeerTransportParameters,
    SessionTicket,
)
from handshaked.model import CipherSuite, Direction, Group, Level
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.authentication import (
    PeerCertificate,
    certificate_message,
    check_certificate_verify,
    decompressed,
    parse_chain,
)
from handshaked.tls.client_offer import ClientOffer, OfferedPsk
from handshaked.tls.codepoints import QUIC_EARLY_DATA, ExtensionType, HandshakeType
from handshaked.tls.key_exchange import generate_key_share
from handshaked.tls.key_schedule import KeySchedule, profile_of
from handshaked.tls.machine import Handler, Machine
from handshaked.tls.parameters import ClientParameters
from handshaked.tls.resumption import MAX_TICKET, ResumptionState, push_resumption, trusted_until
from handshaked.tls.signatures import SUPPORTED_SCHEMES, choose_scheme
from handshaked.tls.state import CLIENT_QUIC, CLIENT_TCP, PROCEED, ClientState, State

MAX_TICKETS = 64
"""Most session tickets of a server that are kept: 32 KiB of data, one step of a session, could hold 1,600."""


class ClientHandshake(Machine):
    """The client's side of one handshake: call `start`, then `receive`.

    ``early_data`` is None if none is offered, else whether it was accepted (False until EncryptedExtensions);
    ``peer_record_size_limit`` is for the record layer of TCP.
    """

    connected: ClassVar = ClientState.CONNECTED
    failed: ClassVar = ClientState.FAILED

    # Set during the handshake; no transition reaches a state that reads them before they are set.
    _offer: ClientOffer
    _hello: bytes
    _client_handshake_secret: bytes
    _server_handshake_secret: bytes
    _resumption_secret: bytes

    def __init__(self, parameters: ClientParameters, *, quic: bool = True) -> None:
        super().__init__(ClientState.START, CLIENT_QUIC if quic else CLIENT_TCP, quic=quic)
        self.early_data: bool | None = None
        self.peer_record_size_limit: int | None = None
        self._parameters = parameters
        self._retry_group: int | None = None
        self._psk: OfferedPsk | None = None
        self._peer: PeerCertificate | None = None
        self._request: messages.CertificateRequestMessage | None = None
        self._alpn: bytes | None = None
        self._tickets = 0

    def start(self, now: float) -> list[Event]:
        """Return the events of the first flight. Raises HandshakeError as in `receive`."""
        try:
            next_states = self._transitions[self._state].get(PROCEED)
            if next_states is None:
                raise LocalError("the handshake was already started")
            self._offer = ClientOffer(self._parameters, quic=self._quic, now=now)
            self._log_to(self._parameters.keylog, self._offer.random)
            self._hello = self._offer.push(now)
            self._enter(ClientState.WAIT_SH, next_states)
        except HandshakeError:
            self._state = self.failed
            raise
        events: list[Event] = [CryptoData(Level.INITIAL, self._hello)]
        if self._offer.early_data:
            self.early_data = False
            self._derive_early_secret(self._offer.psks[0], events)
        return events

    def _derive_early_secret(self, psk: OfferedPsk, events: list[Event]) -> None:
        if psk.resumption is not None:
            self._schedule = schedule = KeySchedule(psk.resumption.suite)
            schedule.use_psk(psk.key)
            secret = schedule.derive(b"c e traffic", schedule.hash_with(self._hello))
            events.append(self._secret(Level.EARLY, Direction.SEND, secret))

    # ServerHello

    def _receive_hello(self, message: bytes, events: list[Event], now: float) -> ClientState:
        hello = messages.pull_server_hello(message)
        if hello.legacy_session_id != self._offer.session_id:
            # RFC 8446 section 4.1.3
            raise PeerError(Alert.ILLEGAL_PARAMETER, "the server's legacy_session_id_echo does not match")
        if hello.cipher_suite not in self._parameters.cipher_suites:
            raise PeerError(
                Alert.ILLEGAL_PARAMETER,
                f"cipher suite {hello.cipher_suite:#06x} was not offered",
            )
        suite = CipherSuite(hello.cipher_suite)
        retried = self._state is ClientState.RETRIED
        if hello.is_retry:
            if retried:
                # Section 4.1.4
                raise PeerError(Alert.UNEXPECTED_MESSAGE, "second HelloRetryRequest")
            self._check_solicited(hello.extensions, ExtensionType.COOKIE)
            self._reassembler.expect_boundary()
            self._receive_retry(hello, suite, message, events, now)
            return ClientState.RETRIED
        self._check_solicited(hello.extensions)
        if not retried:
            self._schedule = KeySchedule(suite)
        elif suite is not self._schedule.suite:
            # Section 4.1.4
            raise PeerError(Alert.ILLEGAL_PARAMETER, "the cipher suite differs from that of the HelloRetryRequest")
        self._select_psk(hello.extensions.get(ExtensionType.PRE_SHARED_KEY))
        secret = self._shared_secret(hello)
        self._reassembler.expect(Level.HANDSHAKE)
        self._schedule.update(self._hello + message)
        self._schedule.enter_handshake(secret)
        self._derive_handshake_secrets(events)
        return ClientState.WAIT_EE

    def _check_solicited(self, extensions: dict[int, bytes], exempt: int | None = None) -> None:
        for kind in extensions:
            if kind not in self._offer.extension_types and kind != exempt:
                # RFC 8446 section 4.2
                raise PeerError(Alert.UNSUPPORTED_EXTENSION, f"extension {kind} was not requested")

    def _receive_retry(
        self, hello: messages.ServerHelloMessage, suite: CipherSuite, message: bytes, events: list[Event], now: float
    ) -> None:
        """Answer a HelloRetryRequest (RFC 8446 section 4.1.4)."""
        share = hello.extensions.get(ExtensionType.KEY_SHARE)
        cookie = hello.extensions.get(ExtensionType.COOKIE)
        if share is None and cookie is None:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "HelloRetryRequest that would not change the ClientHello")
        if share is not None:
            group = ext.pull_u16(share, "key_share")
            if group not in self._parameters.groups or group in self._offer.shares:
                # Section 4.2.8
                raise PeerError(
                    Alert.ILLEGAL_PARAMETER,
                    f"HelloRetryRequest for unexpected group {group:#06x}",
                )
            self._retry_group = group
            self._offer.shares = {group: generate_key_share(Group(group))}
        self._schedule = schedule = KeySchedule(suite)
        schedule.update(self._hello)
        schedule.replace_first_hello()
        schedule.update(message)
        self._offer.retry(suite)
        self._hello = self._offer.push(now, b"" if cookie is None else ext.pull_cookie(cookie), schedule)
        events.append(CryptoData(Level.INITIAL, self._hello))

    def _select_psk(self, body: bytes | None) -> None:
        """Use the PSK that the server selected, if any (RFC 8446 section 4.2.11)."""
        if body is None:
            if self._parameters.psk is not None and self._parameters.verifier is None:
                raise PeerError(Alert.HANDSHAKE_FAILURE, "the server rejected the PSK; there is no verifier")
            return
        index = ext.pull_u16(body, "pre_shared_key")
        if index >= len(self._offer.psks):
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"the server selected PSK {index}, which was not offered")
        psk = self._psk = self._offer.psks[index]
        if psk.profile is not self._schedule.profile:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "the hash of the cipher suite is not that of the selected PSK")
        self._schedule.use_psk(psk.key)

    def _shared_secret(self, hello: messages.ServerHelloMessage) -> bytes:
        body = hello.extensions.get(ExtensionType.KEY_SHARE)
        if body is None:
            raise PeerError(Alert.MISSING_EXTENSION, "ServerHello without key_share")
        group, share = ext.pull_key_share(body)
        if group not in self._offer.shares or self._retry_group not in (None, group):
            # Section 4.2.8: the server must select a group that the client sent a key share for.
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"group {group:#06x} has no key share")
        secret = self._offer.shares[group].finish(share)
        self._offer.shares.clear()
        return secret

    def _derive_handshake_secrets(self, events: list[Event]) -> None:
        schedule = self._schedule
        transcript_hash = schedule.transcript_hash()
        self._server_handshake_secret = schedule.derive(b"s hs traffic", transcript_hash)
        self._client_handshake_secret = schedule.derive(b"c hs traffic", transcript_hash)
        events += (
            self._secret(Level.HANDSHAKE, Direction.RECEIVE, self._server_handshake_secret),
            self._secret(Level.HANDSHAKE, Direction.SEND, self._client_handshake_secret),
        )

    # The server's flight

    def _receive_encrypted_extensions(self, message: bytes, events: list[Event], now: float) -> ClientState:
        fields = messages.pull_encrypted_extensions(message)
        # First, as it decides on the keys of an alert.
        if self._offer.early_data:
            self.early_data = ExtensionType.EARLY_DATA in fields
        self._check_solicited(fields)
        self._schedule.update(message)
        if (body := fields.get(ExtensionType.SERVER_NAME)) is not None:
            ext.pull_empty(body, "server_name")
        if (body := fields.get(ExtensionType.SUPPORTED_GROUPS)) is not None:
            ext.pull_groups(body)
        if (body := fields.get(ExtensionType.RECORD_SIZE_LIMIT)) is not None:
            self.peer_record_size_limit = ext.pull_record_size_limit(body)
        if (body := fields.get(ExtensionType.ALPN)) is not None:
            protocols = ext.pull_alpn(body)
            if len(protocols) != 1 or protocols[0] not in self._parameters.alpns:
                # RFC 7301 section 3.1: "MUST contain exactly one "ProtocolName"", which was offered
                raise PeerError(Alert.ILLEGAL_PARAMETER, "the selected application protocol was not offered")
            self._alpn = protocols[0]
        if (body := fields.get(ExtensionType.EARLY_DATA)) is not None:
            ext.pull_empty(body, "early_data")
            self._check_early_data()
        if self._quic:
            self._receive_quic_extensions(fields, events)
        return ClientState.WAIT_CERT_CR if self._psk is None else ClientState.WAIT_FINISHED

    def _check_early_data(self) -> None:
        """Check that early data was accepted with the first PSK, its cipher suite and ALPN (section 4.2.10)."""
        psk = self._psk
        if psk is None or psk is not self._offer.psks[0] or psk.resumption is None or not self._offer.early_data:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "early data was accepted with another PSK than the first")
        if self._schedule.suite is not psk.resumption.suite or (self._alpn or b"") != psk.resumption.alpn:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "early data was accepted with another cipher suite or ALPN")

    def _receive_quic_extensions(self, fields: dict[int, bytes], events: list[Event]) -> None:
        if self._alpn is None:
            # RFC 9001 section 8.1
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the server selected no application protocol")
        peer = fields.get(ExtensionType.QUIC_TRANSPORT_PARAMETERS)
        if peer is None:
            # RFC 9001 section 8.2
            raise PeerError(Alert.MISSING_EXTENSION, "EncryptedExtensions without quic_transport_parameters")
        events.append(PeerTransportParameters(peer, self._alpn))

    def _receive_certificate_request(self, message: bytes, events: list[Event], now: float) -> ClientState:
        self._request = messages.pull_certificate_request(message)
        self._schedule.update(message)
        return ClientState.WAIT_CERT

    def _receive_certificate(self, message: bytes, events: list[Event], now: float) -> ClientState:
        return self._accept_certificate(message[4:], message, now)

    def _receive_compressed_certificate(self, message: bytes, events: list[Event], now: float) -> ClientState:
        return self._accept_certificate(decompressed(message, self._parameters.compressions), message, now)

    def _accept_certificate(self, body: bytes, message: bytes, now: float) -> ClientState:
        certificate = messages.pull_certificate(body)
        if not certificate.chain:
            # RFC 8446 section 4.4.2.4
            raise PeerError(Alert.DECODE_ERROR, "the server sent no certificate")
        self._peer = parse_chain(certificate)
        self._schedule.update(message)
        parameters = self._parameters
        if parameters.verifier is not None:
            parameters.verifier.verify(self._peer.chain, parameters.server_name or "", now)
        return ClientState.WAIT_CV

    def _receive_certificate_verify(self, message: bytes, events: list[Event], now: float) -> ClientState:
        transcript_hash = self._schedule.transcript_hash()
        if self._peer is not None:
            check_certificate_verify(self._peer, message, SUPPORTED_SCHEMES, transcript_hash, by_server=True)
        self._schedule.update(message)
        return ClientState.WAIT_FINISHED

    def _receive_finished(self, message: bytes, events: list[Event], now: float) -> State:
        schedule = self._schedule
        profile = schedule.profile
        verify_data = messages.pull_finished(message, profile.size)
        expected = profile.verify_data(self._server_handshake_secret, schedule.transcript_hash())
        if not compare_digest(verify_data, expected):
            # RFC 8446 section 4.4.4
            raise PeerError(Alert.DECRYPT_ERROR, "invalid Finished from the server")
        self._reassembler.expect(Level.APPLICATION)
        schedule.update(message)
        self._derive_application_secrets()
        events += (
            self._secret(Level.APPLICATION, Direction.RECEIVE, self._receive_secret),
            self._secret(Level.APPLICATION, Direction.SEND, self._send_secret),
        )
        if self.early_data and not self._quic:
            schedule.update(messages.END_OF_EARLY_DATA)
            events.append(CryptoData(Level.EARLY, messages.END_OF_EARLY_DATA))
        return self._send(self._authentication(), ClientState.WAIT_SIGNATURE, events)

    def _finish(self, flight: bytes, events: list[Event]) -> State:
        schedule = self._schedule
        verify_data = schedule.profile.verify_data(self._client_handshake_secret, schedule.transcript_hash())
        finished = messages.push_finished(verify_data)
        schedule.update(finished)
        self._resumption_secret = schedule.derive(b"res master", schedule.transcript_hash())
        events += (CryptoData(Level.HANDSHAKE, flight + finished), self._completion())
        return ClientState.CONNECTED

    def _completion(self) -> HandshakeComplete:
        psk = self._psk
        return HandshakeComplete(
            self._alpn,
            self._parameters.server_name,
            self._schedule.suite,
            psk is not None and psk.resumption is not None,
            self._peer.chain if self._peer is not None else (),
            psk_identity=psk.identity if psk is not None and psk.resumption is None else None,
            early_data_accepted=self.early_data is True,
        )

    def _authentication(self) -> bytes:
        """Return the Certificate, if requested, after adding it to the transcript (section 4.4.2)."""
        request, credential = self._request, self._parameters.credential
        if request is None:
            return b""
        if credential is None or choose_scheme(credential.key_type, request.signature_schemes) is None:
            flight = messages.push_certificate(())
            self._schedule.update(flight)
            return flight
        flight = certificate_message(credential, self._parameters.compressions, request.compressions, ocsp=False)
        self._schedule.update(flight)
        self._need_signature(credential, request.signature_schemes)
        return flight

    # After the handshake

    def _receive_new_session_ticket(self, message: bytes, events: list[Event], now: float) -> ClientState:
        new = messages.pull_new_session_ticket(message)
        if self._quic and new.max_early_data not in (None, QUIC_EARLY_DATA):
            # RFC 9001 section 4.6.1: "any other value" is a PROTOCOL_VIOLATION
            raise QuicViolationError(
                Alert.ILLEGAL_PARAMETER, f"max_early_data_size of {new.max_early_data}, which QUIC forbids"
            )
        if not new.lifetime or len(new.ticket) > MAX_TICKET or self._tickets >= MAX_TICKETS:
            return ClientState.CONNECTED
        self._tickets += 1
        parameters, suite = self._parameters, self._schedule.suite
        resumed = self._psk.resumption if self._psk is not None else None
        received = int(now * 1000)
        trusted = trusted_until(self._peer.leaf if self._peer is not None else None, resumed)
        state = ResumptionState(
            suite,
            self._binding(),
            received,
            min(received + new.lifetime * 1000, trusted),
            trusted,
            new.age_add,
            new.max_early_data or 0,
            profile_of(suite).resumption_psk(self._resumption_secret, new.nonce),
            (parameters.server_name or "").encode(),
            self._alpn or b"",
            new.ticket,
        )
        events.append(SessionTicket(push_resumption(state), state.expires / 1000, state.max_early_data > 0))
        return ClientState.CONNECTED

    def _binding(self) -> bytes:
        """Return what the session is bound to (RFC 8446 section 2.2)."""
        if self._psk is not None and self._psk.resumption is not None:
            return self._psk.resumption.binding
        bindings = self._offer.bindings
        binding = bindings.by_certificate if self._psk is None else bindings.by_psk
        if binding is None:
            raise LocalError("the server was authenticated in a way that the client does not accept")
        return binding

    handlers: ClassVar[dict[int, Handler]] = {
        HandshakeType.KEY_UPDATE: Machine.receive_key_update,
        HandshakeType.SERVER_HELLO: _receive_hello,
        HandshakeType.ENCRYPTED_EXTENSIONS: _receive_encrypted_extensions,
        HandshakeType.CERTIFICATE_REQUEST: _receive_certificate_request,
        HandshakeType.CERTIFICATE: _receive_certificate,
        HandshakeType.COMPRESSED_CERTIFICATE: _receive_compressed_certificate,
        HandshakeType.CERTIFICATE_VERIFY: _receive_certificate_verify,
        HandshakeType.FINISHED: _receive_finished,
        HandshakeType.NEW_SESSION_TICKET: _receive_new_session_ticket,
    }
