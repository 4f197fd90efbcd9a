"""The error tree, and the one table that relates alerts, QUIC errors and errnos.

An error says whose fault it was: the peer's, the caller's or ours. No other module names alerts or errnos.
"""

import enum
import errno
import os
from typing import ClassVar


class Alert(enum.IntEnum):
    """TLS alert descriptions (RFC 8446 section 6, RFC 7301, RFC 6066)."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120

    @property
    def label(self) -> str:
        """The alert's name as in RFC 8446, e.g. ``no_application_protocol``."""
        return self.name.lower()

    @property
    def quic_error(self) -> int:
        """The QUIC transport error that carries this alert (RFC 9001 section 4.8)."""
        return 0x100 + self

    @property
    def errno(self) -> int:
        """The status of an outcome that this alert, sent or received, has caused."""
        return _ERRNO.get(self, errno.EACCES)


class QuicError(enum.IntEnum):
    """QUIC transport errors besides those that carry an alert (RFC 9000 section 20.1)."""

    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C


# Any other alert is a refused handshake: EACCES.
_ERRNO = {
    Alert.UNKNOWN_PSK_IDENTITY: errno.EKEYREJECTED,
    Alert.INTERNAL_ERROR: errno.EIO,
}


class Status:
    """The errnos that a request may end with, besides those of alerts."""

    OK: ClassVar = 0
    FAILED: ClassVar = errno.EIO  # the initial value of every outcome
    REFUSED: ClassVar = errno.EACCES
    NOT_PERMITTED: ClassVar = errno.EPERM
    TIMED_OUT: ClassVar = errno.ETIMEDOUT
    CANCELED: ClassVar = errno.ECANCELED
    PEER_GONE: ClassVar = errno.ECONNRESET
    SHUTTING_DOWN: ClassVar = errno.ESHUTDOWN
    BUSY: ClassVar = errno.EBUSY
    EXISTS: ClassVar = errno.EEXIST
    NOT_FOUND: ClassVar = errno.ENOENT
    NO_KEY: ClassVar = errno.ENOKEY
    INVALID: ClassVar = errno.EINVAL
    OUT_OF_RANGE: ClassVar = errno.ERANGE
    TOO_LONG: ClassVar = errno.EMSGSIZE
    UNSUPPORTED: ClassVar = errno.EOPNOTSUPP
    RATE_LIMITED: ClassVar = errno.EDQUOT
    QUOTA: ClassVar = errno.EDQUOT
    NO_SYSTEM_CALL: ClassVar = errno.ENOSYS
    WOULD_BLOCK: ClassVar = errno.EAGAIN
    NO_BUFFERS: ClassVar = errno.ENOBUFS
    BAD_DESCRIPTOR: ClassVar = errno.EBADF
    NO_DEVICE: ClassVar = errno.ENODEV  # also: no such type of key
    NO_OPTION: ClassVar = errno.ENOPROTOOPT
    NOT_CONNECTED: ClassVar = errno.ENOTCONN
    BROKEN_PIPE: ClassVar = errno.EPIPE


_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOSPC))
_KERNEL_STATUSES = frozenset(
    (
        Status.OK, Status.REFUSED, Status.TIMED_OUT, Status.NO_KEY, Status.UNSUPPORTED, Status.INVALID,
        errno.EKEYREJECTED, errno.ENOMEM,
    )
)  # fmt: skip
# The consumer may try again after these.
_KERNEL_RETRY = frozenset((Status.PEER_GONE, Status.SHUTTING_DOWN, Status.BUSY))


def kernel_status(status: int) -> int:
    """Return the status that a consumer in the kernel receives for `status`: one of those that it knows."""
    if status in _KERNEL_RETRY:
        return Status.TIMED_OUT
    return status if status in _KERNEL_STATUSES else Status.FAILED


def file_problem(error: Exception) -> str:
    """Return the text of an `error` with a file, which names it as far as that is known."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return str(error)


def is_temporary(error: Exception) -> bool:
    """Return whether what failed with `error` may succeed later without anybody's help."""
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    return isinstance(error, MemoryError | UnavailableError) and not isinstance(error, DamagedError)


def status_text(status: int) -> str:
    """Return a status for people: ``ok``, or the errno's symbol and description."""
    if status == 0:
        return "ok"
    return f"{errno.errorcode.get(status, status)} ({os.strerror(status)})"


MAX_REASON = 1024
"""Bytes of an error's text. It often repeats what a stranger has sent, and goes to logs and replies of limited size."""


def shortened(text: str, limit: int = MAX_REASON) -> str:
    """Return `text`, or its beginning if it takes more than `limit` bytes in UTF-8."""
    encoded = text[: limit + 1].encode(errors="backslashreplace")
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode(errors="ignore") + "…"


class HandshakedError(Exception):
    """Root of all errors raised by this package. Its text is shortened to ``MAX_REASON`` bytes."""

    def __str__(self) -> str:
        return shortened(super().__str__())


class HandshakeError(HandshakedError):
    """A handshake cannot continue.

    ``alert`` is sent to the peer over TCP; over QUIC the connection is closed with ``quic_error``, which carries the
    alert unless a subclass says otherwise. ``reason`` goes to the log and the caller (no secrets), ``status`` is the
    errno of the outcome.
    """

    def __init__(self, alert: Alert, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.alert = alert
        self.reason = str(self)
        self.status = alert.errno if status is None else status

    @property
    def quic_error(self) -> int:
        """The QUIC transport error to close a connection with."""
        return self.alert.quic_error


class PeerError(HandshakeError):
    """The peer violated the protocol, or offers nothing acceptable."""


class QuicViolationError(PeerError):
    """The peer violated a rule of RFC 9001 whose error is PROTOCOL_VIOLATION. ``alert`` says the same over TCP."""

    @property
    def quic_error(self) -> int:
        """As in HandshakeError."""
        return QuicError.PROTOCOL_VIOLATION


class CallerError(HandshakeError):
    """The endpoint that requested the handshake misused the interface."""


class LocalError(HandshakeError):
    """The fault is on this side: an unusable key, a resource that failed."""

    def __init__(self, reason: str, status: int = Status.FAILED) -> None:
        super().__init__(Alert.INTERNAL_ERROR, reason, status)


class RefusedError(HandshakedError):
    """The registry or the control interface refuses a change or query; the text says why and what to do."""


class UnreadableError(RefusedError):
    """The content of a file cannot be read; the text names the file, the entry with its position, and the reason."""


class UnsupportedKeyError(RefusedError):
    """A key is weak, or no signature scheme of TLS 1.3 fits it; the text says what it is and what to use."""


class DeniedError(RefusedError):
    """The caller is not permitted to do this; others may be."""


class UnavailableError(RefusedError):
    """A resource of the daemon (disk, descriptors, a file) is temporarily unavailable: the request may work later."""


class DamagedError(UnavailableError):
    """A file of the daemon is damaged: only an administrator can repair it."""


class WireError(HandshakedError):
    """A netlink-format message is malformed.

    ``status`` is the errno for the reply, ``attribute`` names the invalid attribute (or None), ``offset`` is its
    position in bytes from the message header (or None).
    """

    def __init__(
        self, reason: str, *, status: int = Status.INVALID, attribute: str | None = None, offset: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = str(self)
        self.status = status
        self.attribute = attribute
        self.offset = offset


class FramingError(WireError):
    """Message boundaries are lost: the rest of the packet cannot be parsed."""
