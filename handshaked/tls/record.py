"""The TLS 1.3 record layer for TCP (RFC 8446 section 5), without I/O.

Pass bytes to `receive` and call `pull` until it returns None; then read at most `needed` more bytes. A caller that
never reads more leaves the bytes after a record, such as the peer's Finished, in the socket. Keys are installed between
two pulls.
"""

import enum
from dataclasses import dataclass, field

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.tls.protection import TAG_LENGTH, RecordProtection, RecordState

MAX_PLAINTEXT = 2**14
"""Largest fragment of a record (RFC 8446 section 5.1)."""

MAX_CIPHERTEXT = MAX_PLAINTEXT + 256
"""Largest encrypted_record (RFC 8446 section 5.2)."""

MAX_INNER = MAX_PLAINTEXT + 1
"""Largest TLSInnerPlaintext: a fragment and its type; also the largest record_size_limit (RFC 8449 section 4)."""

MIN_RECORD_SIZE_LIMIT = 64
"""Smallest record_size_limit (RFC 8449 section 4)."""

MAX_EMPTY_RECORDS = 32
"""Largest number of consecutive records without content (they are allowed, but cost work)."""

KEY_LIFETIME = min(suite.max_records for suite in CipherSuite) // 2
"""Number of records sent under one key before it is updated: less than the limit of any cipher suite."""

_HEADER = 5
_ORDER = (Level.INITIAL, Level.EARLY, Level.HANDSHAKE, Level.APPLICATION)


class ContentType(enum.IntEnum):
    """Record types (RFC 8446 section 5.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


@dataclass(frozen=True, slots=True)
class Record:
    """A received record without protection and padding."""

    content_type: ContentType
    level: Level
    fragment: bytes = field(repr=False)


class _MessageBoundary:
    """Tracks handshake messages across records; ``inside`` is whether one is incomplete."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._body = 0
        self.messages = 0

    @property
    def inside(self) -> bool:
        return bool(self._header or self._body)

    def follow(self, fragment: bytes) -> None:
        at = 0
        while at < len(fragment):
            if self._body:
                step = min(self._body, len(fragment) - at)
                self._body -= step
            else:
                step = min(4 - len(self._header), len(fragment) - at)
                self._header += fragment[at : at + step]
                if len(self._header) == 4:
                    self._body = int.from_bytes(self._header[1:])
                    self._header.clear()
                    self.messages += not self._body
                at += step
                continue
            self.messages += not self._body
            at += step


class RecordLayer:
    """Both directions of one TLS stream, from its first record."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._buffer = bytearray()
        self._boundary = _MessageBoundary()
        self._receive_level = Level.INITIAL
        self._receive_protection: RecordProtection | None = None
        self._receive_limit = MAX_INNER
        self._hellos = 0
        self._change_cipher_specs = 0
        self._empty_records = 0
        self._skippable: int | None = None
        self._early_data: int | None = None
        self._send_level = Level.INITIAL
        self._send_protections: dict[Level, RecordProtection] = {}
        self._send_limit = MAX_INNER
        self._sent = False
        self.key_lifetime = KEY_LIFETIME

    # Receiving

    def receive(self, data: bytes) -> None:
        """Add bytes of the stream."""
        self._buffer += data

    def needed(self) -> int:
        """Return how many bytes to read without reading beyond the next record: the rest of its header or body."""
        have = len(self._buffer)
        if have < _HEADER:
            return _HEADER - have
        return max(0, _HEADER + int.from_bytes(self._buffer[3:_HEADER]) - have)

    @property
    def buffered(self) -> int:
        """The number of received bytes that no pulled record contains; 0 at a record boundary."""
        return len(self._buffer)

    def pull(self) -> Record | None:
        """Return the next record, or None if more bytes are needed. PeerError as soon as a header is invalid."""
        while len(self._buffer) >= _HEADER:
            outer = self._checked_header()
            end = _HEADER + int.from_bytes(self._buffer[3:_HEADER])
            if len(self._buffer) < end:
                return None
            header, body = bytes(self._buffer[:_HEADER]), bytes(self._buffer[_HEADER:end])
            del self._buffer[:end]
            if outer is ContentType.CHANGE_CIPHER_SPEC:
                self._drop_change_cipher_spec(body)
                continue
            record = self._unprotect(outer, header, body)
            if record is None:
                continue
            self._check_content(record)
            return record
        return None

    def _checked_header(self) -> ContentType:
        """Check the header of the next record and return its outer type (the version is ignored: section 5.1)."""
        try:
            outer = ContentType(self._buffer[0])
        except ValueError:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"record of unknown type {self._buffer[0]}") from None
        length = int.from_bytes(self._buffer[3:_HEADER])
        protected = outer is ContentType.APPLICATION_DATA
        limit = MAX_CIPHERTEXT if protected else MAX_PLAINTEXT
        if length > limit:  # RFC 8446 section 5.1 and 5.2
            raise PeerError(Alert.RECORD_OVERFLOW, f"record of {length} bytes, the limit is {limit}")
        if outer is ContentType.CHANGE_CIPHER_SPEC:
            self._check_change_cipher_spec_allowed()
        elif protected and self._receive_protection is None and self._skippable is None:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "protected record before keys are installed")
        elif not protected and self._receive_protection is not None:
            self._check_plaintext_allowed(outer, self._receive_protection)
        return outer

    def _check_plaintext_allowed(self, outer: ContentType, protection: RecordProtection) -> None:
        """With keys installed, allow only an alert, from a client that could not derive handshake keys."""
        # RFC 8446 appendix A.1: clients may send alerts "in the clear or with the early data keys"
        early = self._receive_level is Level.EARLY
        first = self._receive_level is Level.HANDSHAKE and protection.sequence == 0
        if outer is not ContentType.ALERT or self._role is not Role.SERVER or not (early or first):  # section 5.2
            raise PeerError(
                Alert.UNEXPECTED_MESSAGE, f"unprotected {outer.name.lower()} record after keys are installed"
            )

    def _check_change_cipher_spec_allowed(self) -> None:
        # RFC 8446 section 5: after the first ClientHello, before the peer's Finished; section 5.1: not within a message
        early = self._role is Role.SERVER and not self._hellos
        if early or self._boundary.inside or self._receive_level is Level.APPLICATION:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "unexpected change_cipher_spec")

    def _drop_change_cipher_spec(self, body: bytes) -> None:
        if body != b"\x01":  # RFC 8446 section 5
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "change_cipher_spec must be the single byte 1")
        # RFC 8446 section D.4: each side sends one. One for each hello is accepted, to bound their number.
        self._change_cipher_specs += 1
        if self._change_cipher_specs > max(1, self._hellos):
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "repeated change_cipher_spec")

    def _unprotect(self, outer: ContentType, header: bytes, body: bytes) -> Record | None:
        """Return the record inside, or None if it is rejected early data, which is skipped."""
        if outer is not ContentType.APPLICATION_DATA:
            if outer is ContentType.HANDSHAKE:
                self._skippable = None  # the second ClientHello (RFC 8446 section 4.2.10)
            return Record(outer, Level.INITIAL, body)
        try:
            inner = self._receiving().open(header, body)
        except (LocalError, PeerError):
            if self._skippable is None:
                raise
            self._skippable -= max(1, len(body) - TAG_LENGTH - 1)
            if self._skippable < 0:  # RFC 8446 section 4.2.10
                raise PeerError(Alert.UNEXPECTED_MESSAGE, "more rejected early data than the limit") from None
            return None
        self._skippable = None
        if len(inner) > self._receive_limit:  # RFC 8446 section 5.4, RFC 8449 section 4
            raise PeerError(
                Alert.RECORD_OVERFLOW,
                f"record of {len(inner)} bytes of content, the limit is {self._receive_limit}",
            )
        content = inner.rstrip(b"\0")
        if not content:  # RFC 8446 section 5.4
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "protected record without content type")
        try:
            content_type = ContentType(content[-1])
        except ValueError:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"protected record of unknown type {content[-1]}") from None
        return Record(content_type, self._receive_level, content[:-1])

    def _check_content(self, record: Record) -> None:
        """Check that the record is allowed in the current state."""
        kind = record.content_type
        if kind is ContentType.CHANGE_CIPHER_SPEC:  # RFC 8446 section 5
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "protected change_cipher_spec")
        if kind is not ContentType.HANDSHAKE and self._boundary.inside:  # RFC 8446 section 5.1
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"{kind.name.lower()} record within a handshake message")
        if not record.fragment:
            self._count_empty(kind)
        else:
            self._empty_records = 0
        if kind is ContentType.HANDSHAKE:
            self._boundary.follow(record.fragment)
            if record.level is Level.INITIAL:
                self._hellos = self._boundary.messages
        elif kind is ContentType.APPLICATION_DATA:
            self._check_application_data(record)

    def _count_empty(self, kind: ContentType) -> None:
        if kind is not ContentType.APPLICATION_DATA:  # RFC 8446 section 5.1 and 5.4
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"{kind.name.lower()} record without content")
        self._empty_records += 1
        if self._empty_records > MAX_EMPTY_RECORDS:
            raise PeerError(Alert.UNEXPECTED_MESSAGE, f"more than {MAX_EMPTY_RECORDS} empty records in a row")

    def _check_application_data(self, record: Record) -> None:
        if record.level not in (Level.EARLY, Level.APPLICATION):
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "application data during the handshake")
        if record.level is Level.EARLY and self._early_data is not None:
            self._early_data -= len(record.fragment)
            if self._early_data < 0:  # RFC 8446 section 4.2.10
                raise PeerError(Alert.UNEXPECTED_MESSAGE, "more early data than the ticket allows")

    # Keys and limits

    def install(self, secret: TrafficSecret) -> None:
        """Protect a direction with `secret` from the next record on.

        Sending stays possible at earlier levels until something is sent at the new one. A KeyUpdate (RFC 8446
        section 4.6.3) is one more secret of the application level.
        """
        protection = RecordProtection(secret.cipher_suite, secret.secret)
        if secret.direction is Direction.SEND:
            self._send_protections[secret.level] = protection
            self._send_level = max(self._send_level, secret.level, key=_ORDER.index)
            return
        self._check_aligned()
        self._receive_protection = protection
        self._receive_level = secret.level

    def _check_aligned(self) -> None:
        if self._boundary.inside:  # RFC 8446 section 5.1
            raise PeerError(Alert.UNEXPECTED_MESSAGE, "handshake message spans a key change")

    def state(self, direction: Direction) -> RecordState:
        """Return keys and sequence number of a direction at its current level, for kTLS."""
        return (self._receiving() if direction is Direction.RECEIVE else self._sending(self._send_level)).state()

    def limit_received(self, record_size_limit: int) -> None:
        """Enforce the record_size_limit that was sent to the peer, in bytes (RFC 8449 section 4)."""
        self._receive_limit = min(record_size_limit, MAX_INNER)

    def limit_sent(self, record_size_limit: int) -> None:
        """Apply the record_size_limit that the peer sent; one larger than possible is valid. PeerError if too small."""
        if record_size_limit < MIN_RECORD_SIZE_LIMIT:  # RFC 8449 section 4
            raise PeerError(Alert.ILLEGAL_PARAMETER, f"record_size_limit of {record_size_limit} bytes")
        self._send_limit = min(record_size_limit, MAX_INNER)

    @property
    def max_payload(self) -> int:
        """Largest content of a protected record to send, in bytes (kTLS: TLS_TX_MAX_PAYLOAD_LEN)."""
        return self._send_limit - 1

    def skip_early_data(self, limit: int) -> None:
        """Skip up to `limit` bytes of rejected early data (RFC 8446 section 4.2.10).

        Without receive keys (after a HelloRetryRequest) every protected record is skipped, with keys every record that
        cannot be decrypted, up to the first that can.
        """
        self._skippable = limit

    def limit_early_data(self, limit: int) -> None:
        """Accept at most `limit` bytes of early data: the ticket's max_early_data_size."""
        self._early_data = limit

    # Sending

    @property
    def send_level(self) -> Level:
        """The highest level with keys to send."""
        return self._send_level

    @property
    def update_due(self) -> bool:
        """True if a KeyUpdate must be sent before more application data (RFC 8446 section 5.5)."""
        return self._sending(Level.APPLICATION).sequence >= self.key_lifetime

    def protect(self, level: Level, content_type: ContentType, data: bytes, padding: int = 0) -> bytes:
        """Return the records that carry `data` at `level`; empty application data becomes one empty record.

        Each record has up to `padding` bytes of padding if there is room. LocalError without keys for `level`.
        """
        if content_type is ContentType.CHANGE_CIPHER_SPEC or level is Level.INITIAL:
            return self._plaintext(content_type, data)
        protection = self._sending(level)
        room = self.max_payload
        minimum = 1 if content_type is ContentType.APPLICATION_DATA else 0  # nothing else is sent empty, section 5.4
        records = []
        for at in range(0, max(minimum, len(data)), room):
            fragment = data[at : at + room]
            inner = fragment + bytes([content_type]) + bytes(min(padding, room - len(fragment)))
            header = _header(ContentType.APPLICATION_DATA, len(inner) + TAG_LENGTH)
            records.append(header + protection.seal(header, inner))
        for lower in _ORDER[: _ORDER.index(level)]:
            self._send_protections.pop(lower, None)
        return b"".join(records)

    def _plaintext(self, content_type: ContentType, data: bytes) -> bytes:
        # RFC 8446 section 5.1 and D.4: 0x0301 on an initial ClientHello, 0x0303 on everything else
        version = 0x0301 if self._role is Role.CLIENT and not self._sent else 0x0303
        self._sent = True
        fragments = (data[at : at + MAX_PLAINTEXT] for at in range(0, len(data), MAX_PLAINTEXT))
        return b"".join(_header(content_type, len(fragment), version) + fragment for fragment in fragments)

    def _sending(self, level: Level) -> RecordProtection:
        try:
            return self._send_protections[level]
        except KeyError:
            raise LocalError(f"no keys to send at level {level.name.lower()}") from None

    def _receiving(self) -> RecordProtection:
        if self._receive_protection is None:
            raise LocalError("no keys to receive")
        return self._receive_protection


def _header(content_type: ContentType, length: int, version: int = 0x0303) -> bytes:
    return bytes([content_type]) + version.to_bytes(2) + length.to_bytes(2)


def pull_alert(fragment: bytes) -> int:
    """Return the description of the alert in a record; its level is ignored (RFC 8446 section 6)."""
    if len(fragment) != 2:  # RFC 8446 section 5.1: neither fragmented nor coalesced
        raise PeerError(Alert.DECODE_ERROR, f"alert record of {len(fragment)} bytes")
    return fragment[1]


def push_alert(alert: Alert) -> bytes:
    """Return the fragment of an alert: close_notify and user_canceled are warnings, others fatal (section 6)."""
    warning = alert in (Alert.CLOSE_NOTIFY, Alert.USER_CANCELED)
    return bytes([1 if warning else 2, alert])
