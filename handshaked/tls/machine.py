"""The state machine of either side: dispatch messages by the transition table; an error is final."""

from collections.abc import Callable
from typing import Any, ClassVar

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError, QuicViolationError
from handshaked.events import CryptoData, Event, SignatureNeeded, TrafficSecret
from handshaked.model import Direction, Level, Signer
from handshaked.tls import messages
from handshaked.tls.authentication import signature_needed
from handshaked.tls.codec import MisplacedExtensionError
from handshaked.tls.codepoints import ExtensionType, HandshakeType
from handshaked.tls.key_schedule import KeySchedule, export, updated_secret
from handshaked.tls.keylog import KeyLog, exporter_line, traffic_line
from handshaked.tls.parameters import Credential
from handshaked.tls.reassembly import MessageReassembler
from handshaked.tls.state import SIGNED, ClientState, State, Transitions

Handler = Callable[[Any, bytes, list[Event], float], State]
"""Handles a message (machine, message, events, now): appends events and returns the next state."""

_MAX_EXPORTER_LABEL = 249  # HkdfLabel.label<7..255>, of which "tls13 " takes six
_NAMES = {int(kind): kind.name.lower() for kind in HandshakeType}


class Machine:
    """One side of a handshake. Messages are dispatched to `handlers` by type, if the state's table has that type.

    If the own certificate is sent and its credential has no signer, `receive`, or `proceed` of a server, returns
    SignatureNeeded as the last event, and the handshake continues with `proceed_with_signature`.
    """

    handlers: ClassVar[dict[int, Handler]]
    connected: ClassVar[State]
    failed: ClassVar[State]

    # Set during the handshake; no transition reaches a state that reads them before they are set.
    _schedule: KeySchedule
    _application_hash: bytes
    _flight: bytes  # messages that are sent with the signature
    _receive_secret: bytes
    _send_secret: bytes

    def __init__(self, state: State, transitions: Transitions, *, quic: bool) -> None:
        self._quic = quic
        self._state = state
        self._transitions = transitions
        self._reassembler = MessageReassembler(Level.INITIAL)
        self._is_client = isinstance(state, ClientState)
        self._needed: SignatureNeeded | None = None
        self._signer: Signer | None = None
        self._keylog: KeyLog | None = None
        self._client_random = b""

    @property
    def complete(self) -> bool:
        """True once the peer's Finished was verified."""
        return self._state is self.connected

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]:
        """Process handshake bytes received at `level` at `now` (Unix seconds) and return the events in order.

        Raises HandshakeError, which ends the handshake; events of earlier messages in `data` are lost.
        """
        events: list[Event] = []
        reassembler = self._reassembler
        try:
            if self._state is self.failed:
                raise LocalError("the handshake has already failed")
            reassembler.receive(level, data)
            while (kind := reassembler.next_type()) is not None:
                next_states = self._transitions[self._state].get(kind)
                if next_states is None:
                    raise self._unexpected(kind)
                message = reassembler.pull()
                if message is None:
                    break
                self._enter(self.handlers[kind](self, message, events, now), next_states)
                self._sign_at_once(events)
        except MisplacedExtensionError as error:
            self._state = self.failed
            if not self._quic and error.kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
                raise unexpected_transport_parameters() from None
            raise
        except HandshakeError:
            self._state = self.failed
            raise
        return events

    def _unexpected(self, kind: int) -> PeerError:
        """Return the error for a message that the current state does not expect (RFC 8446 section 4)."""
        reason = f"{_NAMES.get(kind, f'message of type {kind}')} in state: {self._state.value}"
        if kind == HandshakeType.CERTIFICATE_REQUEST and self.complete and self._is_client:
            # RFC 9001 section 4.4: "clients MUST treat receipt of such messages as a connection error of type
            # PROTOCOL_VIOLATION"
            return QuicViolationError(Alert.UNEXPECTED_MESSAGE, reason)
        return PeerError(Alert.UNEXPECTED_MESSAGE, reason)

    def proceed_with_signature(self, signature: bytes) -> list[Event]:
        """Continue with the `signature` for the last SignatureNeeded. Returns and raises as `receive`."""
        events: list[Event] = []
        try:
            next_states = self._transitions[self._state].get(SIGNED)
            if next_states is None:
                raise LocalError(f"no signature is needed in state: {self._state.value}")
            if self._needed is not None:
                proof = messages.push_certificate_verify(self._needed.scheme, signature)
                self._schedule.update(proof)
                self._enter(self._finish(self._flight + proof, events), next_states)
        except HandshakeError:
            self._state = self.failed
            raise
        return events

    def _finish(self, flight: bytes, events: list[Event]) -> State:
        """Send `flight`, which is in the transcript, and the own Finished. Return the next state."""
        raise NotImplementedError

    def _sign_at_once(self, events: list[Event]) -> None:
        """Continue without the caller if the last event is a SignatureNeeded, and the credential has a signer."""
        if self._signer is None or not events or not isinstance(needed := events[-1], SignatureNeeded):
            return
        signature = self._signer.sign(needed.scheme, needed.transcript_hash, by_server=needed.by_server)
        events[-1:] = self.proceed_with_signature(signature)

    def _need_signature(self, credential: Credential, offered: tuple[int, ...]) -> None:
        """Let the next flight wait for a signature over the transcript; PeerError if the peer supports no scheme."""
        transcript_hash = self._schedule.transcript_hash()
        self._needed = signature_needed(credential, offered, transcript_hash, by_server=not self._is_client)
        self._signer = credential.signer

    def _send(self, flight: bytes, waiting: State, events: list[Event]) -> State:
        """Finish `flight`, or be `waiting` for the signature that it needs."""
        if self._needed is None:
            return self._finish(flight, events)
        self._flight = flight
        events.append(self._needed)
        return waiting

    def _enter(self, state: State, next_states: tuple[State, ...]) -> None:
        if state not in next_states:
            raise LocalError(f"no transition from {self._state.name} to {state.name}")
        self._state = state

    # Secrets

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return `length` bytes of keying material for the application (RFC 8446 section 7.5).

        LocalError before the handshake is complete, or if a length is out of range.
        """
        if not self.complete:
            raise LocalError("keying material cannot be exported before the handshake is complete")
        if not 0 < length <= 255 * self._schedule.profile.size or len(label) > _MAX_EXPORTER_LABEL:
            raise LocalError("invalid length or label for exported keying material")
        secret = self._schedule.derive(b"exp master", self._application_hash)
        return export(self._schedule.profile, secret, label, context, length)

    def update_keys(self, *, request: bool) -> list[Event]:
        """Return the events that send a KeyUpdate (RFC 8446 section 4.6.3); TCP only.

        With `request` the peer must update its keys, too. LocalError before the handshake is complete.
        """
        if HandshakeType.KEY_UPDATE not in self._transitions[self._state]:
            raise LocalError("KeyUpdate is not possible before the handshake is complete, nor over QUIC")
        self._send_secret = updated_secret(self._schedule.suite, self._send_secret)
        return [
            CryptoData(Level.APPLICATION, messages.push_key_update(request=request)),
            TrafficSecret(Level.APPLICATION, Direction.SEND, self._schedule.suite, self._send_secret),
        ]

    def receive_key_update(self, message: bytes, events: list[Event], now: float) -> State:
        """Handle KeyUpdate."""
        requested = messages.pull_key_update(message)
        # Section 5.1: a message before a key change must end its record.
        self._reassembler.expect_boundary()
        suite = self._schedule.suite
        self._receive_secret = updated_secret(suite, self._receive_secret)
        events.append(TrafficSecret(Level.APPLICATION, Direction.RECEIVE, suite, self._receive_secret))
        if requested:
            events += self.update_keys(request=False)
        return self._state

    def _log_to(self, keylog: KeyLog | None, client_random: bytes) -> None:
        self._keylog = keylog
        self._client_random = client_random

    def _secret(self, level: Level, direction: Direction, secret: bytes) -> TrafficSecret:
        """Return the event of a traffic secret, which is logged if a key log is set."""
        if self._keylog is not None:
            of_client = (direction is Direction.SEND) is self._is_client
            self._keylog(traffic_line(level, self._client_random, secret, of_client=of_client))
        return TrafficSecret(level, direction, self._schedule.suite, secret)

    def _derive_application_secrets(self) -> None:
        """Derive them from the transcript up to the server's Finished."""
        schedule = self._schedule
        transcript_hash = schedule.transcript_hash()
        schedule.enter_application()
        client = schedule.derive(b"c ap traffic", transcript_hash)
        server = schedule.derive(b"s ap traffic", transcript_hash)
        self._send_secret, self._receive_secret = (client, server) if self._is_client else (server, client)
        self._application_hash = transcript_hash
        if self._keylog is not None:
            secret = schedule.derive(b"exp master", transcript_hash)
            self._keylog(exporter_line(self._client_random, secret))


def unexpected_transport_parameters() -> PeerError:
    """Return the error for quic_transport_parameters over TCP, in any message (RFC 9001 section 8.2)."""
    return PeerError(Alert.UNSUPPORTED_EXTENSION, "quic_transport_parameters over TCP")
