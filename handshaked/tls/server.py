"""The server's side of a handshake (RFC 8446 section 2 and appendix A.2)."""

import os
from hmac import compare_digest
from typing import ClassVar

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError
from handshaked.events import CryptoData, Event, HandshakeComplete, TrafficSecret
from handshaked.model import CipherSuite, Direction, Group, Level
from handshaked.tls import codepoints as cp
from handshaked.tls import extensions as ext
from handshaked.tls import messages
from handshaked.tls.authentication import certificate_message, certificate_verify, possessed
from handshaked.tls.client_hello import ClientHelloMessage, pull_client_hello
from handshaked.tls.codec import push_extension
from handshaked.tls.codepoints import ExtensionType, HandshakeType
from handshaked.tls.key_exchange import respond
from handshaked.tls.key_schedule import KeySchedule
from handshaked.tls.machine import Handler, Machine
from handshaked.tls.negotiation import check_quic_hello, check_second_hello, choose_group, choose_suite
from handshaked.tls.parameters import ClientHello, ServerParameters
from handshaked.tls.state import PROCEED, SERVER_QUIC, SERVER_TCP, ServerState


class ServerHandshake(Machine):
    """One handshake as server: `receive` until there is a `client_hello`, `proceed`, and `receive` to the end."""

    failed: ClassVar = ServerState.FAILED

    # Set on the way; no state leads to where they are read before they are set.
    _parameters: ServerParameters
    _schedule: KeySchedule
    _client_secret: bytes
    _expected_finished: bytes

    def __init__(self, *, quic: bool = True) -> None:
        super().__init__(ServerState.START, SERVER_QUIC if quic else SERVER_TCP)
        self.client_hello: ClientHello | None = None
        self._quic = quic
        self._hello: ClientHelloMessage | None = None
        self._server_name: str | None = None
        self._retry_group: Group | None = None

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]:
        """Go on with what was chosen by the `client_hello`. Raises HandshakeError like `receive`."""
        events: list[Event] = []
        try:
            following = self._transitions[self._state].get(PROCEED)
            if following is None or self._hello is None:
                raise LocalError(f"cannot proceed in state: {self._state.value}")
            self._check_parameters(parameters)
            self._parameters = parameters
            self._enter(self._answer(self._hello, events, now), following)
        except HandshakeError:
            self._state = self.failed
            raise
        return events

    def _check_parameters(self, parameters: ServerParameters) -> None:
        """The caller's choice must be one that the client offered."""
        offered = self._hello.alpns or () if self._hello else ()
        if parameters.alpn is not None and parameters.alpn not in offered:
            raise LocalError("the application protocol chosen was not offered")
        if self._quic:
            if parameters.alpn is None:
                # RFC 9001 section 8.1
                raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "no application protocol in common")
            if parameters.transport_parameters is None:
                raise LocalError("no transport parameters of our own")

    # ClientHello

    def _receive_hello(self, message: bytes, events: list[Event], now: float) -> ServerState:
        # Nothing may follow a ClientHello until it is answered.
        self._reassembler.expect_boundary()
        hello = pull_client_hello(message)
        if self._quic:
            check_quic_hello(hello)
        if self._hello is not None:
            check_second_hello(self._hello, hello, self._retry_group)
            return self._answer(hello, events, now)
        self._hello = hello
        self._server_name = hello.server_name
        schemes = hello.signature_schemes or ()
        self.client_hello = ClientHello(
            hello.server_name,
            hello.alpns or (),
            schemes,
            hello.transport_parameters,
            schemes if hello.signature_schemes_cert is None else hello.signature_schemes_cert,
        )
        return ServerState.RECVD_CH

    def _answer(self, hello: ClientHelloMessage, events: list[Event], now: float) -> ServerState:
        """ServerHello to Finished, or a HelloRetryRequest."""
        parameters = self._parameters
        suite = choose_suite(parameters.cipher_suites, hello.cipher_suites)
        group = choose_group(parameters.groups, hello)
        share = (hello.key_shares or {}).get(group)
        if share is None:
            return self._retry(hello, suite, group, events)
        if self._retry_group is None:
            self._schedule = KeySchedule(suite)
        schedule = self._schedule
        schedule.update(hello.raw)
        public, secret = respond(group, share)
        server_hello = messages.push_server_hello(
            os.urandom(32),
            hello.legacy_session_id,
            suite,
            push_extension(ExtensionType.KEY_SHARE, ext.push_key_share(group, public)),
        )
        schedule.update(server_hello)
        schedule.enter_handshake(secret)
        return self._send_flight(hello, parameters, schedule, server_hello, events)

    def _retry(self, hello: ClientHelloMessage, suite: CipherSuite, group: Group, events: list[Event]) -> ServerState:
        """Ask for a key share of `group` (RFC 8446 section 4.1.4)."""
        self._retry_group = group
        self._schedule = schedule = KeySchedule(suite)
        schedule.update(hello.raw)
        schedule.replace_first_hello()
        request = messages.push_server_hello(
            cp.HELLO_RETRY_RANDOM,
            hello.legacy_session_id,
            suite,
            push_extension(ExtensionType.KEY_SHARE, group.to_bytes(2)),
        )
        schedule.update(request)
        events.append(CryptoData(Level.INITIAL, request))
        return ServerState.RETRIED

    # The flight

    def _send_flight(
        self,
        hello: ClientHelloMessage,
        parameters: ServerParameters,
        schedule: KeySchedule,
        server_hello: bytes,
        events: list[Event],
    ) -> ServerState:
        suite = schedule.suite
        profile = schedule.profile
        transcript_hash = schedule.transcript_hash()
        client_secret = schedule.derive(b"c hs traffic", transcript_hash)
        server_secret = schedule.derive(b"s hs traffic", transcript_hash)
        flight = self._encrypted_extensions(hello, parameters)
        credential = possessed(parameters.credential)
        flight += certificate_message(credential, ocsp=hello.status_request)
        schedule.update(flight)
        proof = certificate_verify(
            credential, hello.signature_schemes or (), schedule.transcript_hash(), by_server=True
        )
        schedule.update(proof)
        finished = messages.push_finished(profile.verify_data(server_secret, schedule.transcript_hash()))
        schedule.update(finished)
        transcript_hash = schedule.transcript_hash()
        schedule.enter_application()
        self._expected_finished = profile.verify_data(client_secret, transcript_hash)
        self._client_secret = schedule.derive(b"c ap traffic", transcript_hash)
        events += (
            CryptoData(Level.INITIAL, server_hello),
            TrafficSecret(Level.HANDSHAKE, Direction.SEND, suite, server_secret),
            TrafficSecret(Level.HANDSHAKE, Direction.RECEIVE, suite, client_secret),
            CryptoData(Level.HANDSHAKE, flight + proof + finished),
            TrafficSecret(Level.APPLICATION, Direction.SEND, suite, schedule.derive(b"s ap traffic", transcript_hash)),
        )
        self._hello = None
        self._reassembler.expect(Level.HANDSHAKE)
        return ServerState.WAIT_FINISHED

    def _encrypted_extensions(self, hello: ClientHelloMessage, parameters: ServerParameters) -> bytes:
        extensions = b""
        if hello.server_name is not None:
            # RFC 6066 section 3: "SHALL include an extension of type "server_name" in the (extended) server hello"
            extensions = push_extension(ExtensionType.SERVER_NAME, b"")
        if parameters.alpn is not None:
            extensions += ext.push_alpn((parameters.alpn,))
        if self._quic:
            extensions += push_extension(
                ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters.transport_parameters or b""
            )
        return messages.push_encrypted_extensions(extensions)

    # The client's flight

    def _receive_finished(self, message: bytes, events: list[Event], now: float) -> ServerState:
        schedule, parameters = self._schedule, self._parameters
        verify_data = messages.pull_finished(message, schedule.profile.size)
        if not compare_digest(verify_data, self._expected_finished):
            # RFC 8446 section 4.4.4
            raise PeerError(Alert.DECRYPT_ERROR, "the client's Finished is wrong")
        self._reassembler.expect(Level.APPLICATION)
        events += (
            TrafficSecret(Level.APPLICATION, Direction.RECEIVE, schedule.suite, self._client_secret),
            HandshakeComplete(parameters.alpn, self._server_name, schedule.suite, resumed=False),
        )
        return ServerState.CONNECTED

    handlers: ClassVar[dict[int, Handler]] = {
        HandshakeType.CLIENT_HELLO: _receive_hello,
        HandshakeType.FINISHED: _receive_finished,
    }
