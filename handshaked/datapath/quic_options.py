"""The interface of the kernel's QUIC sockets (IPPROTO_QUIC): all constants and layouts.

Two layouts of the option CONFIG are known. A kernel with the current one returns as much of it as requested; a kernel
with the older one returns all or nothing.
"""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from handshaked.errors import Alert, LocalError, QuicError, Status
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level

IPPROTO_QUIC = 261
SOL_QUIC = 288
HANDSHAKE_INFO = 1
"""The control message with the encryption level of CRYPTO data."""

MAX_ALPN = 128
MAX_SESSION_TICKET = 4096
MIN_SESSION_TICKET = 64
MAX_TRANSPORT_PARAMETERS = 256
MAX_CHUNK = 65536
NO_CLIENT_CERTIFICATE = 3
"""The certificate_request of a client that sends no certificate."""


class Option(enum.IntEnum):
    """Socket options at SOL_QUIC that a handshake needs."""

    CONNECTION_CLOSE = 5
    CONFIG = 9
    TOKEN = 10
    ALPN = 11
    SESSION_TICKET = 12
    CRYPTO_SECRET = 13
    TRANSPORT_PARAM_EXT = 14


LEVELS = {Level.APPLICATION: 0, Level.INITIAL: 1, Level.HANDSHAKE: 2, Level.EARLY: 3}
_LEVELS = {number: level for level, number in LEVELS.items()}
_SUITES = {suite.linux_cipher: suite for suite in CipherSuite}
_SECRET = struct.Struct("=BBHI48s")  # send, level, reserved, type, secret
_CONNECTION_CLOSE = struct.Struct("=IB3x64s")  # errcode, frame, phrase with a final 0
CONNECTION_CLOSE_SIZE = _CONNECTION_CLOSE.size
_MAX_PHRASE = 63
_ALERT_PHRASE = "TLS alert "
_VIOLATION_PHRASE = f"QUIC error {QuicError.PROTOCOL_VIOLATION.name}"
_ALERTS = {alert.quic_error: alert for alert in Alert}
_ALERTS_BY_LABEL = {alert.label: alert for alert in Alert}
_CONFIG = struct.Struct("=IIIIBBBBB3x")  # further fields do not concern a handshake
_OLD_CONFIG = struct.Struct("=IIQBBxxIBBB5x")


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of CONFIG that concern a handshake; ``ticket_seconds`` is receive_session_ticket."""

    version: int = 0
    payload_cipher_type: int = 0
    ticket_seconds: int = 0
    certificate_request: int = 0

    @property
    def cipher_suites(self) -> tuple[CipherSuite, ...]:
        """The cipher suite required for the payload, empty for any; LocalError if it is unknown."""
        if not self.payload_cipher_type:
            return ()
        suite = _SUITES.get(self.payload_cipher_type)
        if suite is None:
            raise LocalError(f"the socket requires the unknown cipher {self.payload_cipher_type}", Status.INVALID)
        return (suite,)


def read_config(option: Callable[[Option, int], bytes]) -> Config:
    """Read CONFIG with `option` of a QuicSocket; LocalError if its layout is unknown, OSError if it cannot be read."""
    try:
        data = option(Option.CONFIG, _CONFIG.size)
    except OSError as error:
        if error.errno != Status.INVALID:
            raise
        data = option(Option.CONFIG, _OLD_CONFIG.size)
    if len(data) == _CONFIG.size:
        version, _, _, cipher, _, _, _, tickets, request = _CONFIG.unpack(data)
    elif len(data) == _OLD_CONFIG.size:
        version, _, _, _, _, cipher, tickets, request, _ = _OLD_CONFIG.unpack(data)
    else:
        raise LocalError(f"unknown layout of CONFIG with {len(data)} bytes", Status.UNSUPPORTED)
    return Config(version, cipher, tickets, request)


def push_config(config: Config) -> bytes:
    """Encode CONFIG in its current layout."""
    tickets, request = config.ticket_seconds, config.certificate_request
    return _CONFIG.pack(config.version, 0, 333_000, config.payload_cipher_type, 0, 0, 0, tickets, request)


def push_crypto_secret(secret: TrafficSecret) -> bytes:
    """Encode CRYPTO_SECRET."""
    send = secret.direction is Direction.SEND
    return _SECRET.pack(send, LEVELS[secret.level], 0, secret.cipher_suite.linux_cipher, secret.secret)


def pull_crypto_secret(data: bytes) -> TrafficSecret | None:
    """Decode CRYPTO_SECRET; None if it is malformed."""
    if len(data) != _SECRET.size:
        return None
    send, level, _, cipher, secret = _SECRET.unpack(data)
    if level not in _LEVELS or cipher not in _SUITES:
        return None
    suite = _SUITES[cipher]
    direction = Direction.SEND if send else Direction.RECEIVE
    return TrafficSecret(_LEVELS[level], direction, suite, secret[: suite.secret_length])


@dataclass(frozen=True, slots=True)
class ConnectionClose:
    """CONNECTION_CLOSE: what is sent when the socket is closed, or was received from the peer.

    The kernel replaces the error code of an unfinished handshake with APPLICATION_ERROR and keeps the phrase, which
    therefore contains the alert too.
    """

    error_code: int = 0
    phrase: str = ""

    @classmethod
    def of(cls, alert: Alert) -> Self:
        """Return what a socket is closed with after `alert`."""
        return cls(alert.quic_error, f"{_ALERT_PHRASE}{alert.label}")

    @classmethod
    def of_error(cls, quic_error: int) -> Self:
        """Return what a socket is closed with after the QUIC error `quic_error`, which may carry an alert."""
        alert = _ALERTS.get(quic_error)
        if alert is not None:
            return cls.of(alert)
        return cls(quic_error, _VIOLATION_PHRASE if quic_error == QuicError.PROTOCOL_VIOLATION else "")

    @property
    def is_violation(self) -> bool:
        """True for a PROTOCOL_VIOLATION: like an alert, in the error code or in the phrase."""
        if self.error_code == QuicError.APPLICATION_ERROR:
            return self.phrase == _VIOLATION_PHRASE
        return self.error_code == QuicError.PROTOCOL_VIOLATION

    @property
    def alert(self) -> Alert | None:
        """The alert in the error code or, with APPLICATION_ERROR, in the phrase."""
        if self.error_code == QuicError.APPLICATION_ERROR and self.phrase.startswith(_ALERT_PHRASE):
            return _ALERTS_BY_LABEL.get(self.phrase.removeprefix(_ALERT_PHRASE))
        return _ALERTS.get(self.error_code)


def push_connection_close(close: ConnectionClose) -> bytes:
    """Encode CONNECTION_CLOSE."""
    return _CONNECTION_CLOSE.pack(close.error_code, 0, close.phrase.encode()[:_MAX_PHRASE])


def pull_connection_close(data: bytes) -> ConnectionClose | None:
    """Decode CONNECTION_CLOSE, of which a kernel may leave out the phrase; None if it is malformed."""
    if len(data) < _CONNECTION_CLOSE.size - _MAX_PHRASE - 1:
        return None
    error_code, _, phrase = _CONNECTION_CLOSE.unpack_from(data.ljust(_CONNECTION_CLOSE.size, b"\0"))
    return ConnectionClose(error_code, phrase.partition(b"\0")[0].decode(errors="replace"))


def push_level(level: Level) -> bytes:
    """Encode the payload of HANDSHAKE_INFO."""
    return bytes((LEVELS[level],))


def pull_level(data: bytes) -> Level | None:
    """Return the level in HANDSHAKE_INFO, None if it is malformed."""
    return _LEVELS.get(data[0]) if len(data) == 1 else None


def push_alpns(alpns: tuple[bytes, ...]) -> bytes:
    """Encode the option ALPN: names separated by commas."""
    return b",".join(alpns)


def pull_alpns(data: bytes) -> tuple[bytes, ...]:
    """Return the names in the option ALPN, without blanks around them."""
    names = (name.strip(b" \0") for name in data.split(b","))
    return tuple(name for name in names if name)
