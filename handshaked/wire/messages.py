"""The messages of the family ``handshaked``: commands, attributes with their limits, and a class for each message.

A message belongs to the handshake of its sequence number, which the endpoint chooses. A test compares all numbers
and limits with ``netlink/handshaked.yaml``.
"""

import enum
from dataclasses import dataclass, field
from typing import Any

from handshaked.errors import Alert, WireError
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Direction, Level, Outcome, Role
from handshaked.wire.netlink import Kind, Policy

FAMILY = 32
VERSION = 1
MAX_PACKET = 128 * 1024
"""Largest packet on the handshake socket in either direction, in bytes."""
MAX_CRYPTO = 32 * 1024
"""Largest piece of CRYPTO data in one message, in bytes."""


class Command(enum.IntEnum):
    """Types of messages."""

    START = 1
    CRYPTO = 2
    SECRET = 3
    TRANSPORT_PARAMETERS = 4
    DONE = 5
    CANCEL = 6
    LOOKUP = 7
    SESSION_TICKET = 8
    CLOSE = 9


class StartAttribute(enum.IntEnum):
    """Attributes of START; numbers below 32 are those of the kernel's ACCEPT."""

    MESSAGE_TYPE = 3
    TIMEOUT = 4
    AUTH_MODE = 5
    PEERNAME = 8
    ALPN = 32
    TRANSPORT_PARAMETERS = 33
    REGISTRATION = 34
    CREDENTIAL = 35
    TRUST_ANCHOR = 36
    PEER_ADDRESS = 37
    CIPHER_SUITE = 38
    SESSION_TICKET = 39
    TICKET_SECONDS = 40
    EARLY_DATA = 41
    SOCKET = 42
    CERTIFICATE_FILE = 43
    KEY_FILE = 44
    PSK_FILE = 45


class CryptoAttribute(enum.IntEnum):
    """Attributes of CRYPTO, data of one encryption level."""

    LEVEL = 1
    DATA = 2


class SecretAttribute(enum.IntEnum):
    """Attributes of SECRET, a traffic secret."""

    LEVEL = 1
    DIRECTION = 2
    CIPHER_SUITE = 3
    SECRET = 4


class TransportParametersAttribute(enum.IntEnum):
    """Attributes of TRANSPORT_PARAMETERS: the peer's, with the selected ALPN, or the endpoint's own."""

    PARAMETERS = 1
    ALPN = 2


class DoneAttribute(enum.IntEnum):
    """Attributes of DONE; numbers below 32 are those of the kernel's DONE."""

    STATUS = 1
    TAG = 4
    ALERT = 32
    REASON = 33
    ALPN = 34
    SERVER_NAME = 35
    REGISTRATION = 36
    CIPHER_SUITE = 37
    RESUMED = 38
    PEER_CERTIFICATE = 39
    EARLY_DATA_ACCEPTED = 40
    QUIC_ERROR = 41


class LookupAttribute(enum.IntEnum):
    """Attributes of LOOKUP: a question (CLIENT_HELLO, or DATAGRAMs) or its answer (the rest)."""

    CLIENT_HELLO = 1
    DATAGRAM = 2
    STATUS = 3
    REGISTRATION = 4
    ALPN = 5
    SERVER_NAME = 6
    ALERT = 7
    REASON = 8
    QUIC_ERROR = 9


class CancelAttribute(enum.IntEnum):
    """Attributes of CANCEL: why the endpoint gives up."""

    REASON = 1


class SessionTicketAttribute(enum.IntEnum):
    """Attributes of SESSION_TICKET: what a client resumes with, and its expiry (Unix seconds, rounded down)."""

    STATE = 1
    EXPIRES = 2
    EARLY_DATA = 3


class CloseAttribute(enum.IntEnum):
    """Attributes of CLOSE: the QUIC error to close the connection with, and why."""

    QUIC_ERROR = 1
    REASON = 2


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a handshake; fields as in ``model.Request``, `timeout` in seconds or None for the daemon's default.

    With ``socket`` the handshake runs on a QUIC socket, whose descriptor is attached, followed by the descriptors of
    the files in the order of the fields here.
    """

    role: Role
    timeout: float | None = None
    auth_mode: AuthMode = AuthMode.X509
    server_name: str | None = None
    alpns: tuple[bytes, ...] = ()
    transport_parameters: bytes | None = None
    registration: str | None = None
    credential: bytes | None = None
    cipher_suites: tuple[CipherSuite, ...] = ()
    trust_anchors: tuple[bytes, ...] = ()
    session_ticket: bytes | None = field(default=None, repr=False)
    early_data: bytes | None = None
    ticket_seconds: int = 0
    peer_address: str | None = None
    socket: bool = False
    certificate_file: bool = False
    key_file: bool = False
    psk_file: bool = False

    @property
    def descriptors(self) -> int:
        """The number of descriptors attached to the message."""
        return self.socket + self.certificate_file + self.key_file + self.psk_file

    @property
    def size(self) -> int:
        """The number of bytes in its attributes of variable length."""
        parts = (self.transport_parameters, self.session_ticket, self.early_data, *self.alpns, *self.trust_anchors)
        return sum(len(part) for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class TransportParameters:
    """The endpoint's own transport parameters, sent once the peer's are known."""

    transport_parameters: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a handshake, with its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Close:
    """The peer violated the protocol after the handshake: close the connection with ``quic_error``."""

    quic_error: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The endpoint no longer needs the handshake, for a `reason` that is logged. DONE follows."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Asks which registration a ClientHello selects, given as a handshake message or as QUIC datagrams."""

    client_hello: bytes | None = field(default=None, repr=False)
    datagrams: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """The answer to a Lookup: the registration if the status is 0, else the reason and the error for the client.

    ``quic_error`` and ``alert`` are as in Outcome.
    """

    status: int
    registration: str | None = None
    alpn: bytes | None = None
    server_name: str | None = None
    alert: Alert | None = None
    reason: str = ""
    quic_error: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A malformed message; the other messages in its packet are not affected."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Refused:
    """Reports that a message with this sequence number was malformed."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Reports that a message was handled; all messages that it caused precede this one."""


FromEndpoint = Start | CryptoData | TransportParameters | Cancel | Lookup | Malformed
FromDaemon = (
    CryptoData
    | TrafficSecret
    | PeerTransportParameters
    | Done
    | SessionTicket
    | Close
    | LookupAnswer
    | Refused
    | Acknowledged
    | Malformed
)

_START = {
    StartAttribute.MESSAGE_TYPE: Policy("message-type", Kind.U32, max(Role), required=True),
    StartAttribute.TIMEOUT: Policy("timeout", Kind.U32, 600_000),
    StartAttribute.AUTH_MODE: Policy("auth-mode", Kind.U32, max(AuthMode)),
    StartAttribute.PEERNAME: Policy("peername", Kind.STRING, 253),
    StartAttribute.ALPN: Policy("alpn", Kind.BINARY, 255, multi=True),
    StartAttribute.TRANSPORT_PARAMETERS: Policy("transport-parameters", Kind.BINARY, 4096),
    StartAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255),
    StartAttribute.CREDENTIAL: Policy("credential", Kind.BINARY, 32),
    StartAttribute.TRUST_ANCHOR: Policy("trust-anchor", Kind.BINARY, 16384, multi=True),
    StartAttribute.PEER_ADDRESS: Policy("peer-address", Kind.STRING, 64),
    StartAttribute.CIPHER_SUITE: Policy("cipher-suite", Kind.U32, 0xFFFF, multi=True),
    StartAttribute.SESSION_TICKET: Policy("session-ticket", Kind.BINARY, 65000),
    StartAttribute.TICKET_SECONDS: Policy("ticket-seconds", Kind.U32, 60),
    StartAttribute.EARLY_DATA: Policy("early-data", Kind.BINARY, 255),
    StartAttribute.SOCKET: Policy("socket", Kind.FLAG),
    StartAttribute.CERTIFICATE_FILE: Policy("certificate-file", Kind.FLAG),
    StartAttribute.KEY_FILE: Policy("key-file", Kind.FLAG),
    StartAttribute.PSK_FILE: Policy("psk-file", Kind.FLAG),
}
_CRYPTO = {
    CryptoAttribute.LEVEL: Policy("level", Kind.U32, max(Level), required=True),
    CryptoAttribute.DATA: Policy("data", Kind.BINARY, MAX_CRYPTO, required=True),
}
_SECRET = {
    SecretAttribute.LEVEL: Policy("level", Kind.U32, max(Level), required=True),
    SecretAttribute.DIRECTION: Policy("direction", Kind.U32, max(Direction), required=True),
    SecretAttribute.CIPHER_SUITE: Policy("cipher-suite", Kind.U32, 0xFFFF, required=True),
    SecretAttribute.SECRET: Policy("secret", Kind.BINARY, 48, required=True),
}
_TRANSPORT_PARAMETERS = {
    TransportParametersAttribute.PARAMETERS: Policy("parameters", Kind.BINARY, 65531, required=True),
    TransportParametersAttribute.ALPN: Policy("alpn", Kind.BINARY, 255),
}
_DONE = {
    DoneAttribute.STATUS: Policy("status", Kind.U32, 4095, required=True),
    DoneAttribute.TAG: Policy("tag", Kind.STRING, 255, multi=True),
    DoneAttribute.ALERT: Policy("alert", Kind.U32, 255),
    DoneAttribute.REASON: Policy("reason", Kind.STRING, 1024),
    DoneAttribute.ALPN: Policy("alpn", Kind.BINARY, 255),
    DoneAttribute.SERVER_NAME: Policy("server-name", Kind.STRING, 255),
    DoneAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255),
    DoneAttribute.CIPHER_SUITE: Policy("cipher-suite", Kind.U32, 0xFFFF),
    DoneAttribute.RESUMED: Policy("resumed", Kind.FLAG),
    DoneAttribute.PEER_CERTIFICATE: Policy("peer-certificate", Kind.BINARY, 65531, multi=True),
    DoneAttribute.EARLY_DATA_ACCEPTED: Policy("early-data-accepted", Kind.FLAG),
    DoneAttribute.QUIC_ERROR: Policy("quic-error", Kind.U32),
}
_CANCEL = {CancelAttribute.REASON: Policy("reason", Kind.STRING, 1024)}
_SESSION_TICKET = {
    SessionTicketAttribute.STATE: Policy("state", Kind.BINARY, 65000, required=True),
    SessionTicketAttribute.EXPIRES: Policy("expires", Kind.U32, required=True),
    SessionTicketAttribute.EARLY_DATA: Policy("early-data", Kind.FLAG),
}
_CLOSE = {
    CloseAttribute.QUIC_ERROR: Policy("quic-error", Kind.U32, required=True),
    CloseAttribute.REASON: Policy("reason", Kind.STRING, 1024),
}
_LOOKUP = {
    LookupAttribute.CLIENT_HELLO: Policy("client-hello", Kind.BINARY, 65531),
    LookupAttribute.DATAGRAM: Policy("datagram", Kind.BINARY, 65527, multi=True),
    LookupAttribute.STATUS: Policy("status", Kind.U32, 4095),
    LookupAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255),
    LookupAttribute.ALPN: Policy("alpn", Kind.BINARY, 255),
    LookupAttribute.SERVER_NAME: Policy("server-name", Kind.STRING, 255),
    LookupAttribute.ALERT: Policy("alert", Kind.U32, 255),
    LookupAttribute.REASON: Policy("reason", Kind.STRING, 1024),
    LookupAttribute.QUIC_ERROR: Policy("quic-error", Kind.U32),
}
POLICIES: dict[Command, dict[Any, Policy]] = {
    Command.START: {**_START},
    Command.CRYPTO: {**_CRYPTO},
    Command.SECRET: {**_SECRET},
    Command.TRANSPORT_PARAMETERS: {**_TRANSPORT_PARAMETERS},
    Command.DONE: {**_DONE},
    Command.CANCEL: {**_CANCEL},
    Command.LOOKUP: {**_LOOKUP},
    Command.SESSION_TICKET: {**_SESSION_TICKET},
    Command.CLOSE: {**_CLOSE},
}
