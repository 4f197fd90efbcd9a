"""The client's side of a handshake (RFC 8446 section 2 and appendix A.1)."""

import os
from hmac import compare_digest
from typing import ClassVar

from handshaked.errors import Alert, CallerError, HandshakeError, LocalError, PeerError, Status
from handshaked.events import CryptoData, Event, HandshakeComplete, PeerTransportParameters, TrafficSecret
from handshaked.model import CipherSuite, Direction, Group, Level
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.authentication import (
    PeerCertificate,
    certificate_message,
    certificate_verify,
    check_certificate_verify,
    parse_chain,
)
from handshaked.tls.codec import push_extension, push_message, push_vector8, push_vector16
from handshaked.tls.codepoints import LEGACY_VERSION, TLS_1_3, ExtensionType, HandshakeType, PskMode
from handshaked.tls.key_exchange import KeyShare, offer
from handshaked.tls.key_schedule import KeySchedule
from handshaked.tls.machine import Handler, Machine
from handshaked.tls.parameters import ClientParameters
from handshaked.tls.signatures import CERTIFICATE_SCHEMES, SUPPORTED_SCHEMES, choose_scheme
from handshaked.tls.state import CLIENT_QUIC, CLIENT_TCP, PROCEED, ClientState

_VERSIONS = push_extension(ExtensionType.SUPPORTED_VERSIONS, push_vector8(TLS_1_3.to_bytes(2)))
_SCHEMES = ext.push_u16_list(ExtensionType.SIGNATURE_ALGORITHMS, SUPPORTED_SCHEMES) + ext.push_u16_list(
    ExtensionType.SIGNATURE_ALGORITHMS_CERT, CERTIFICATE_SCHEMES
)
_PSK_MODES = push_extension(ExtensionType.PSK_KEY_EXCHANGE_MODES, push_vector8(bytes([PskMode.PSK_DHE_KE])))


class ClientHandshake(Machine):
    """One handshake as client: `start`, and `receive` to the end."""

    failed: ClassVar = ClientState.FAILED

    # Set on the way; no state leads to where they are read before they are set.
    _schedule: KeySchedule
    _peer: PeerCertificate
    _client_secret: bytes
    _server_secret: bytes

    def __init__(self, parameters: ClientParameters, *, quic: bool = True) -> None:
        super().__init__(ClientState.START, CLIENT_QUIC if quic else CLIENT_TCP)
        self._parameters = parameters
        self._quic = quic
        self._random = b""
        self._session_id = b""
        self._shares: dict[int, KeyShare] = {}
        self._sent_hello = b""
        self._sent_extensions: frozenset[int] = frozenset()
        self._retry_suite: int | None = None
        self._request: messages.CertificateRequestMessage | None = None
        self._alpn: bytes | None = None

    def start(self, now: float) -> list[Event]:
        """The first flight. Raises HandshakeError like `receive`."""
        try:
            following = self._transitions[self._state].get(PROCEED)
            if following is None:
                raise LocalError("the handshake was started before")
            self._check_parameters()
            self._random = os.urandom(32)
            if not self._quic:
                self._session_id = os.urandom(32)  # RFC 8446 appendix D.4, middlebox compatibility
            groups = self._parameters.key_shares or self._parameters.groups[:1]
            self._shares = {int(group): offer(group) for group in groups}
            self._sent_hello = self._client_hello(b"")
            self._enter(ClientState.WAIT_SH, following)
        except HandshakeError:
            self._state = self.failed
            raise
        return [CryptoData(Level.INITIAL, self._sent_hello)]

    def _check_parameters(self) -> None:
        parameters = self._parameters
        if parameters.verifier is not None and not parameters.server_name:
            raise CallerError(Alert.INTERNAL_ERROR, "no server name to verify a certificate for", Status.INVALID)
        if not set(parameters.key_shares) <= set(parameters.groups):
            raise CallerError(Alert.INTERNAL_ERROR, "a key share for a group that is not allowed", Status.INVALID)
        if self._quic and (not parameters.alpns or parameters.transport_parameters is None):
            raise CallerError(
                Alert.INTERNAL_ERROR, "QUIC needs an application protocol and transport parameters", Status.INVALID
            )

    # ClientHello

    def _client_hello(self, cookie: bytes) -> bytes:
        parameters = self._parameters
        extensions = []
        if parameters.server_name and ext.is_dns_name(parameters.server_name):
            extensions.append(ext.push_server_name(parameters.server_name))
        extensions += [
            _VERSIONS,
            ext.push_u16_list(ExtensionType.SUPPORTED_GROUPS, parameters.groups),
            _SCHEMES,
            push_extension(
                ExtensionType.KEY_SHARE,
                push_vector16(b"".join(ext.push_key_share(each.group, each.public) for each in self._shares.values())),
            ),
            _PSK_MODES,
        ]
        if parameters.alpns:
            extensions.append(ext.push_alpn(parameters.alpns))
        if self._quic:
            body = parameters.transport_parameters or b""
            extensions.append(push_extension(ExtensionType.QUIC_TRANSPORT_PARAMETERS, body))
        if cookie:
            extensions.append(push_extension(ExtensionType.COOKIE, push_vector16(cookie)))
        self._sent_extensions = ext.types_of(extensions)
        return push_message(
            HandshakeType.CLIENT_HELLO,
            b"".join(
                (
                    LEGACY_VERSION.to_bytes(2),
                    self._random,
                    push_vector8(self._session_id),
                    push_vector16(b"".join(suite.to_bytes(2) for suite in parameters.cipher_suites)),
                    b"\x01\x00",
                    push_vector16(b"".join(extensions)),
                )
            ),
        )

    # ServerHello

    def _receive_hello(self, message: bytes, events: list[Event], now: float) -> ClientState:
        hello = messages.pull_server_hello(message)
        if hello.legacy_session_id != self._session_id:
            # RFC 8446 section 4.1.3
            raise PeerError(Alert.ILLEGAL_PARAMETER, "the server echoes another legacy_session_id")
        if hello.cipher_suite not in self._parameters.cipher_suites:
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"the server selects cipher suite {hello.cipher_suite:#06x}")
        self._check_solicited(hello.extensions, frozenset({ExtensionType.COOKIE}) if hello.is_retry else frozenset())
        if hello.is_retry:
            return self._receive_retry(hello, message, events)
        if self._retry_suite is None:
            self._schedule = KeySchedule(CipherSuite(hello.cipher_suite))
        elif hello.cipher_suite != self._retry_suite:
            # Section 4.1.4
            raise PeerError(Alert.ILLEGAL_PARAMETER, "another cipher suite than in the HelloRetryRequest")
        self._enter_handshake(hello, message, events)
        return ClientState.WAIT_EE

    def _check_solicited(self, extensions: dict[int, bytes], exempt: frozenset[int] = frozenset()) -> None:
        for kind in extensions:
            if kind not in self._sent_extensions and kind not in exempt:
                # RFC 8446 section 4.2
                raise PeerError(Alert.UNSUPPORTED_EXTENSION, f"extension {kind} was not asked for")

    def _receive_retry(self, hello: messages.ServerHelloMessage, message: bytes, events: list[Event]) -> ClientState:
        """Answer a HelloRetryRequest (RFC 8446 section 4.1.4)."""
        if self._retry_suite is not None:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "a second HelloRetryRequest")
        self._reassembler.expect_boundary()
        share = hello.extensions.get(ExtensionType.KEY_SHARE)
        cookie = hello.extensions.get(ExtensionType.COOKIE)
        if share is None and cookie is None:
            raise PeerError(Alert.ILLEGAL_PARAMETER, "a HelloRetryRequest that would change nothing")
        if share is not None:
            group = ext.pull_u16(share, "key_share")
            if group not in self._parameters.groups or group in self._shares:
                # Section 4.2.8
                raise PeerError(Alert.ILLEGAL_PARAMETER, f"a HelloRetryRequest for group {group:#06x}")
            self._shares = {group: offer(Group(group))}
        self._retry_suite = hello.cipher_suite
        self._schedule = schedule = KeySchedule(CipherSuite(hello.cipher_suite))
        schedule.update(self._sent_hello)
        schedule.replace_first_hello()
        schedule.update(message)
        self._sent_hello = self._client_hello(b"" if cookie is None else ext.pull_cookie(cookie))
        events.append(CryptoData(Level.INITIAL, self._sent_hello))
        return ClientState.RETRIED

    def _enter_handshake(self, hello: messages.ServerHelloMessage, message: bytes, events: list[Event]) -> None:
        body = hello.extensions.get(ExtensionType.KEY_SHARE)
        if body is None:
            raise PeerError(Alert.MISSING_EXTENSION, "ServerHello without key_share")
        group, share = ext.pull_key_share(body)
        if group not in self._shares:
            # Section 4.2.8: a group without a key share from this side
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"the server answers for group {group:#06x}")
        schedule = self._schedule
        schedule.update(self._sent_hello + message)
        schedule.enter_handshake(self._shares[group].finish(share))
        self._shares.clear()
        self._reassembler.expect(Level.HANDSHAKE)
        transcript_hash = schedule.transcript_hash()
        self._server_secret = schedule.derive(b"s hs traffic", transcript_hash)
        self._client_secret = schedule.derive(b"c hs traffic", transcript_hash)
        events += (
            TrafficSecret(Level.HANDSHAKE, Direction.RECEIVE, schedule.suite, self._server_secret),
            TrafficSecret(Level.HANDSHAKE, Direction.SEND, schedule.suite, self._client_secret),
        )

    # The server's flight

    def _receive_encrypted_extensions(self, message: bytes, events: list[Event], now: float) -> ClientState:
        fields = messages.pull_encrypted_extensions(message)
        self._check_solicited(fields)
        self._schedule.update(message)
        if (body := fields.get(ExtensionType.SERVER_NAME)) is not None:
            ext.pull_empty(body, "server_name")
        if (body := fields.get(ExtensionType.SUPPORTED_GROUPS)) is not None:
            ext.pull_groups(body)
        if (body := fields.get(ExtensionType.ALPN)) is not None:
            protocols = ext.pull_alpn(body)
            if len(protocols) != 1 or protocols[0] not in self._parameters.alpns:
                # RFC 7301 section 3.1: "MUST contain exactly one "ProtocolName"", and one that was offered
                raise PeerError(Alert.ILLEGAL_PARAMETER, "the server selects an application protocol not offered")
            self._alpn = protocols[0]
        if self._quic:
            self._take_quic_extensions(fields, events)
        return ClientState.WAIT_CERT_CR

    def _take_quic_extensions(self, fields: dict[int, bytes], events: list[Event]) -> None:
        if self._alpn is None:
            # RFC 9001 section 8.1
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the server selects no application protocol")
        peer = fields.get(ExtensionType.QUIC_TRANSPORT_PARAMETERS)
        if peer is None:
            # RFC 9001 section 8.2
            raise PeerError(Alert.MISSING_EXTENSION, "no quic_transport_parameters")
        events.append(PeerTransportParameters(peer, self._alpn))

    def _receive_certificate_request(self, message: bytes, events: list[Event], now: float) -> ClientState:
        self._request = messages.pull_certificate_request(message)
        self._schedule.update(message)
        return ClientState.WAIT_CERT

    def _receive_certificate(self, message: bytes, events: list[Event], now: float) -> ClientState:
        return self._take_certificate(message[4:], message, now)

    def _take_certificate(self, body: bytes, message: bytes, now: float) -> ClientState:
        certificate = messages.pull_certificate(body)
        if not certificate.chain:
            # RFC 8446 section 4.4.2.4
            raise PeerError(Alert.DECODE_ERROR, "the server sends no certificate")
        self._check_solicited(certificate.leaf_extensions)
        self._peer = parse_chain(certificate)
        self._schedule.update(message)
        parameters = self._parameters
        if parameters.verifier is not None:
            parameters.verifier.verify(self._peer.chain, parameters.server_name or "", now)
        return ClientState.WAIT_CV

    def _receive_certificate_verify(self, message: bytes, events: list[Event], now: float) -> ClientState:
        transcript_hash = self._schedule.transcript_hash()
        check_certificate_verify(self._peer, message, SUPPORTED_SCHEMES, transcript_hash, by_server=True)
        self._schedule.update(message)
        return ClientState.WAIT_FINISHED

    def _receive_finished(self, message: bytes, events: list[Event], now: float) -> ClientState:
        schedule = self._schedule
        profile = schedule.profile
        verify_data = messages.pull_finished(message, profile.size)
        if not compare_digest(verify_data, profile.verify_data(self._server_secret, schedule.transcript_hash())):
            # RFC 8446 section 4.4.4
            raise PeerError(Alert.DECRYPT_ERROR, "the server's Finished is wrong")
        self._reassembler.expect(Level.APPLICATION)
        schedule.update(message)
        transcript_hash = schedule.transcript_hash()
        flight = self._authentication()
        flight += messages.push_finished(profile.verify_data(self._client_secret, schedule.transcript_hash()))
        schedule.enter_application()
        suite = schedule.suite
        secrets = (schedule.derive(b"s ap traffic", transcript_hash), schedule.derive(b"c ap traffic", transcript_hash))
        events += (
            TrafficSecret(Level.APPLICATION, Direction.RECEIVE, suite, secrets[0]),
            TrafficSecret(Level.APPLICATION, Direction.SEND, suite, secrets[1]),
            CryptoData(Level.HANDSHAKE, flight),
            HandshakeComplete(
                self._alpn, self._parameters.server_name, suite, resumed=False, peer_certificates=self._peer.chain
            ),
        )
        return ClientState.CONNECTED

    def _authentication(self) -> bytes:
        """Certificate and CertificateVerify if the server asked (RFC 8446 section 4.4.2), taken into the transcript."""
        request, credential = self._request, self._parameters.credential
        if request is None:
            return b""
        if credential is None or choose_scheme(credential.key_type, request.signature_schemes) is None:
            flight = messages.push_certificate(())
            self._schedule.update(flight)
            return flight
        flight = certificate_message(credential, ocsp=False)
        self._schedule.update(flight)
        transcript_hash = self._schedule.transcript_hash()
        proof = certificate_verify(credential, request.signature_schemes, transcript_hash, by_server=False)
        self._schedule.update(proof)
        return flight + proof

    def _receive_new_session_ticket(self, message: bytes, events: list[Event], now: float) -> ClientState:
        messages.pull_new_session_ticket(message)
        return ClientState.CONNECTED

    handlers: ClassVar[dict[int, Handler]] = {
        HandshakeType.SERVER_HELLO: _receive_hello,
        HandshakeType.ENCRYPTED_EXTENSIONS: _receive_encrypted_extensions,
        HandshakeType.CERTIFICATE_REQUEST: _receive_certificate_request,
        HandshakeType.CERTIFICATE: _receive_certificate,
        HandshakeType.CERTIFICATE_VERIFY: _receive_certificate_verify,
        HandshakeType.FINISHED: _receive_finished,
        HandshakeType.NEW_SESSION_TICKET: _receive_new_session_ticket,
    }
