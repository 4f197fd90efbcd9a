"""TLS 1.3 over a byte stream, without I/O: a handshake with the record layer.

Pass bytes of the stream to `receive`, at most `needed` at a time if nothing may be read beyond a record, and send what
`pull_outgoing` returns. An error is the event HandshakeFailed, which is the last; its alert is among the outgoing
bytes.
"""

from dataclasses import dataclass, field
from typing import Protocol

from handshaked.errors import Alert, HandshakeError, LocalError, PeerError
from handshaked.events import CryptoData, Event, HandshakeComplete, HandshakeFailed, SignatureNeeded, TrafficSecret
from handshaked.model import Direction, Level, Role
from handshaked.tls.parameters import ClientHello, ServerParameters
from handshaked.tls.record import ContentType, Record, RecordLayer, pull_alert, push_alert

MAX_KEY_UPDATES = 64
"""Largest number of consecutive KeyUpdates from a peer without application data: each may require an answer."""

MIN_EARLY_DATA_SKIPPED = 2**14
"""Smallest limit on rejected early data that is skipped, in bytes."""

MAX_WARNINGS = 8
"""Largest number of user_canceled alerts that are ignored while close_notify is awaited."""

_SESSION_ID_LENGTH_AT = 4 + 2 + 32  # handshake header, legacy_version, random: the same in both hellos


@dataclass(frozen=True, slots=True)
class ApplicationData:
    """Application data from the peer; `level` is EARLY for 0-RTT data, which can be replayed."""

    level: Level
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer's close_notify: it sends no more data (RFC 8446 section 6.1)."""


StreamEvent = Event | ApplicationData | PeerClosed


class _Handshake(Protocol):
    @property
    def early_data(self) -> bool | None: ...

    @property
    def peer_record_size_limit(self) -> int | None: ...

    def receive(self, level: Level, data: bytes, now: float) -> list[Event]: ...

    def proceed_with_signature(self, signature: bytes) -> list[Event]: ...

    def update_keys(self, *, request: bool) -> list[Event]: ...


class _ServerHandshake(_Handshake, Protocol):
    @property
    def client_hello(self) -> ClientHello | None: ...

    def proceed(self, parameters: ServerParameters, now: float) -> list[Event]: ...


class _ClientHandshake(_Handshake, Protocol):
    def start(self, now: float) -> list[Event]: ...


class _Stream:
    """The part that is common to both roles."""

    def __init__(self, role: Role, handshake: _Handshake) -> None:
        self.records = RecordLayer(role)
        self._handshake = handshake
        self._outgoing = bytearray()
        self._complete = False
        self._unsigned = False
        self._closed_in = False
        self._closed_out = False
        self._key_updates = 0
        self._warnings = 0

    def needed(self) -> int:
        """Return how many bytes may be read now; 0 while waiting for the caller, or after the end."""
        return 0 if self._closed_in or self._held() else self.records.needed()

    def receive(self, data: bytes, now: float) -> list[StreamEvent]:
        """Process bytes of the stream and return the events."""
        if self._closed_in:
            return []
        self.records.receive(data)
        return self._process(now)

    def proceed_with_signature(self, signature: bytes, now: float) -> list[StreamEvent]:
        """Continue with the `signature` for the last SignatureNeeded, then process the bytes already received."""
        events: list[StreamEvent] = []
        self._unsigned = False
        try:
            self._apply(self._handshake.proceed_with_signature(signature), events)
        except HandshakeError as error:
            return [*events, self.fail(error)]
        return events + self._process(now)

    def send(self, data: bytes) -> None:
        """Send application data, after a KeyUpdate if the key has reached its limit. LocalError if not connected."""
        if not self._complete or self._closed_out:
            raise LocalError("application data cannot be sent before the handshake is complete, or after close")
        if self.records.update_due:
            self._apply(self._handshake.update_keys(request=False), [])
        self._outgoing += self.records.protect(Level.APPLICATION, ContentType.APPLICATION_DATA, data)

    def close(self) -> None:
        """Send close_notify: no more data follows (RFC 8446 section 6.1)."""
        self._send_alert(Alert.CLOSE_NOTIFY)

    def fail(self, error: HandshakeError) -> HandshakeFailed:
        """End the stream with the alert of `error`, and return the event."""
        self._send_alert(error.alert)
        self._closed_in = True
        return HandshakeFailed.of(error)

    def pull_outgoing(self) -> bytes:
        """Return the bytes to send and forget them."""
        outgoing = bytes(self._outgoing)
        self._outgoing.clear()
        return outgoing

    def _held(self) -> bool:
        """Return whether records must wait for the caller."""
        return self._unsigned

    def _process(self, now: float) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        try:
            while not self._closed_in and not self._held():
                record = self.records.pull()
                if record is None:
                    break
                self._receive_record(record, events, now)
        except HandshakeError as error:
            events.append(self.fail(error))
        return events

    def _receive_record(self, record: Record, events: list[StreamEvent], now: float) -> None:
        if record.content_type is ContentType.ALERT:
            self._receive_alert(record, events)
        elif record.content_type is ContentType.APPLICATION_DATA:
            self._key_updates = 0
            events.append(ApplicationData(record.level, record.fragment))
        else:
            self._apply(self._handshake.receive(record.level, record.fragment, now), events)

    def _receive_alert(self, record: Record, events: list[StreamEvent]) -> None:
        description = pull_alert(record.fragment)
        if description == Alert.USER_CANCELED and self._warnings < MAX_WARNINGS:  # RFC 8446 section 6.1
            self._warnings += 1
            return
        self._closed_in = True
        if description == Alert.CLOSE_NOTIFY and self._complete:
            events.append(PeerClosed())
            return
        self._closed_out = True  # RFC 8446 section 6.2: an alert is not answered
        try:
            alert = Alert(description)
        except ValueError:  # RFC 8446 section 6: unknown alerts are errors, too
            alert = Alert.HANDSHAKE_FAILURE
        name = alert.label if alert == description else f"number {description}"
        events.append(HandshakeFailed.of(PeerError(alert, f"the peer sent the alert {name}")))

    def _count_key_update(self) -> None:
        self._key_updates += 1
        if self._key_updates > MAX_KEY_UPDATES:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"more than {MAX_KEY_UPDATES} KeyUpdates without data")

    def _apply(self, happened: list[Event], events: list[StreamEvent]) -> None:
        """Apply a handshake's `happened` events to the record layer, and append those for the caller to `events`."""
        for event in happened:
            match event:
                case CryptoData():
                    self._send_messages(event)
                case TrafficSecret():
                    if self._complete and event.direction is Direction.RECEIVE:
                        self._count_key_update()
                    self.records.install(event)
                case HandshakeFailed():
                    events.append(self.fail(HandshakeError(event.alert, event.reason, event.status)))
                    return
                case _:
                    self._complete = self._complete or isinstance(event, HandshakeComplete)
                    self._unsigned = isinstance(event, SignatureNeeded)
                    events.append(event)

    def _send_messages(self, event: CryptoData) -> None:
        if not self._closed_out:  # not even a requested KeyUpdate
            self._outgoing += self.records.protect(event.level, ContentType.HANDSHAKE, event.data)

    def _change_cipher_spec(self) -> None:
        self._outgoing += self.records.protect(Level.INITIAL, ContentType.CHANGE_CIPHER_SPEC, b"\x01")

    def _alert_level(self) -> Level:
        """Return the level at which an alert is sent: the highest with keys."""
        return self.records.send_level

    def _send_alert(self, alert: Alert) -> None:
        if not self._closed_out:
            self._closed_out = True
            self._outgoing += self.records.protect(self._alert_level(), ContentType.ALERT, push_alert(alert))


class ServerStream(_Stream):
    """The server's side. Once there is a `client_hello`, the stream waits for `proceed`."""

    def __init__(self, handshake: _ServerHandshake) -> None:
        super().__init__(Role.SERVER, handshake)
        self._server_handshake = handshake
        self._proceeded = False
        self._hello_sent = False

    @property
    def client_hello(self) -> ClientHello | None:
        """The ClientHello to select parameters by, once it is received."""
        return self._server_handshake.client_hello

    @property
    def waits(self) -> bool:
        """True if the ClientHello was received, and `proceed` must be called before anything is read."""
        return not self._proceeded and self.client_hello is not None

    def proceed(self, parameters: ServerParameters, now: float) -> list[StreamEvent]:
        """Answer the ClientHello, then process the bytes already received."""
        events: list[StreamEvent] = []
        self._proceeded = True
        try:
            self._limit_records(parameters)
            self._apply(self._server_handshake.proceed(parameters, now), events)
            self._limit_early_data(parameters)
        except HandshakeError as error:
            return [*events, self.fail(error)]
        return events + self._process(now)

    def _limit_records(self, parameters: ServerParameters) -> None:
        """Apply record size limits: our own only if the peer has one, the peer's in any case (RFC 8449 section 4)."""
        limit = self._handshake.peer_record_size_limit
        if limit is not None:
            self.records.limit_sent(limit)
            if parameters.record_size_limit is not None:
                self.records.limit_received(parameters.record_size_limit)

    def _limit_early_data(self, parameters: ServerParameters) -> None:
        limit = 0 if parameters.early_data is None else parameters.early_data.max_size
        if self._handshake.early_data is False:
            self.records.skip_early_data(max(limit, MIN_EARLY_DATA_SKIPPED))
        elif self._handshake.early_data:
            self.records.limit_early_data(limit)

    def _held(self) -> bool:
        return self.waits or super()._held()

    def _send_messages(self, event: CryptoData) -> None:
        super()._send_messages(event)
        # RFC 8446 section D.4: after the first ServerHello or HelloRetryRequest, if legacy_session_id is not empty
        if not self._hello_sent:
            self._hello_sent = True
            if event.data[_SESSION_ID_LENGTH_AT]:
                self._change_cipher_spec()


class ClientStream(_Stream):
    """The client's side: call `start` first. `record_size_limit` is that of the handshake's parameters."""

    def __init__(self, handshake: _ClientHandshake, record_size_limit: int | None = None) -> None:
        super().__init__(Role.CLIENT, handshake)
        self._client_handshake = handshake
        self._record_size_limit = record_size_limit
        self._hello_sent = False
        self._compatible = False

    def start(self, now: float) -> list[StreamEvent]:
        """Send the ClientHello."""
        events: list[StreamEvent] = []
        try:
            self._apply(self._client_handshake.start(now), events)
        except HandshakeError as error:
            events.append(self.fail(error))
        return events

    def _apply(self, happened: list[Event], events: list[StreamEvent]) -> None:
        limit = self._handshake.peer_record_size_limit
        if limit is not None and self._record_size_limit is not None:  # RFC 8449 section 4, as in EncryptedExtensions
            self.records.limit_sent(limit)
            self.records.limit_received(self._record_size_limit)
        super()._apply(happened, events)

    def _send_messages(self, event: CryptoData) -> None:
        self._send_change_cipher_spec_once()
        super()._send_messages(event)
        if not self._hello_sent:
            self._hello_sent = True
            self._compatible = event.data[_SESSION_ID_LENGTH_AT] != 0
            if self._handshake.early_data is not None:
                self._send_change_cipher_spec_once()

    def _send_change_cipher_spec_once(self) -> None:
        """Send change_cipher_spec if the legacy_session_id is not empty (RFC 8446 section D.4).

        It precedes the second flight or encrypted alert; if early data is offered, it follows the ClientHello.
        """
        if self._compatible:
            self._compatible = False
            self._change_cipher_spec()

    def _alert_level(self) -> Level:
        """Return the level whose keys the server has installed (RFC 8446 appendix A.1).

        Before the ServerHello it may have rejected the early data, and would skip an alert among them. If it has
        accepted them, it reads them until EndOfEarlyData. It has application keys after our Finished only.
        """
        level = self.records.send_level
        if self._complete or level is Level.INITIAL:
            return level
        if level is Level.EARLY:
            return Level.INITIAL
        return Level.EARLY if self._handshake.early_data else Level.HANDSHAKE

    def _send_alert(self, alert: Alert) -> None:
        if self._alert_level() is not Level.INITIAL:
            self._send_change_cipher_spec_once()
        super()._send_alert(alert)
