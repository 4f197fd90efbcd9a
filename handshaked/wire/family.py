"""The family ``handshaked``: the messages between an endpoint and the daemon, as ``netlink/handshaked.yaml`` has them.

A message belongs to the handshake of its sequence number, which the endpoint chooses. ``pull_messages`` and the
``push_x`` functions are each other's inverse; a test compares all numbers with the YAML.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from handshaked.errors import Alert, Status, WireError
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, CipherSuite, Direction, Level, Outcome, Role
from handshaked.wire.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Frame,
    Kind,
    Policy,
    pull_attributes,
    pull_error,
    pull_frames,
    push_binary,
    push_message,
    push_string,
    push_u32,
)

FAMILY = 32
VERSION = 1
MAX_PACKET = 128 * 1024
"""Largest packet on the Unix door, in bytes, either way."""
MAX_CRYPTO = 32 * 1024
"""Largest piece of CRYPTO data in one message, in bytes."""


class Command(enum.IntEnum):
    """What a message is."""

    START = 1
    CRYPTO = 2
    SECRET = 3
    TRANSPORT_PARAMETERS = 4
    DONE = 5
    CANCEL = 6
    LOOKUP = 7
    SESSION_TICKET = 8


class StartAttribute(enum.IntEnum):
    """Numbers below 32 are those of the kernel's ACCEPT."""

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


class CryptoAttribute(enum.IntEnum):
    """CRYPTO bytes of one encryption level."""

    LEVEL = 1
    DATA = 2


class SecretAttribute(enum.IntEnum):
    """A traffic secret."""

    LEVEL = 1
    DIRECTION = 2
    CIPHER_SUITE = 3
    SECRET = 4


class TransportParametersAttribute(enum.IntEnum):
    """The peer's (from the daemon, with the ALPN selected) or the endpoint's own."""

    PARAMETERS = 1
    ALPN = 2


class DoneAttribute(enum.IntEnum):
    """Numbers below 32 are those of the kernel's DONE."""

    STATUS = 1
    ALERT = 32
    REASON = 33
    ALPN = 34
    SERVER_NAME = 35
    REGISTRATION = 36
    CIPHER_SUITE = 37
    RESUMED = 38
    PEER_CERTIFICATE = 39
    EARLY_DATA_ACCEPTED = 40


class LookupAttribute(enum.IntEnum):
    """A question (CLIENT_HELLO, or DATAGRAMs) or its answer (the rest)."""

    CLIENT_HELLO = 1
    DATAGRAM = 2
    STATUS = 3
    REGISTRATION = 4
    ALPN = 5
    SERVER_NAME = 6
    ALERT = 7
    REASON = 8


class CancelAttribute(enum.IntEnum):
    """Why the endpoint gives up."""

    REASON = 1


class SessionTicketAttribute(enum.IntEnum):
    """What a client resumes with, and until when (seconds since 1970, rounded down)."""

    STATE = 1
    EXPIRES = 2
    EARLY_DATA = 3


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a handshake; fields as in ``model.Request``, `timeout` in seconds or None for the daemon's default."""

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


@dataclass(frozen=True, slots=True)
class TransportParameters:
    """The endpoint's own transport parameters, given after the peer's are known."""

    transport_parameters: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """How a handshake ended."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Cancel:
    """The endpoint has no use for the handshake any more, for a `reason` that the log shall tell. DONE follows."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which registration would serve this ClientHello (a whole handshake message, or QUIC datagrams holding it)?"""

    client_hello: bytes | None = field(default=None, repr=False)
    datagrams: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class LookupAnswer:
    """The answer to a Lookup: with status 0 the registration, else why there is none and the alert for the client."""

    status: int
    registration: str | None = None
    alpn: bytes | None = None
    server_name: str | None = None
    alert: Alert | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that breaks the family's rules; its neighbours in the packet are not affected."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Refused:
    """The daemon's word that a message of that sequence number was malformed."""

    error: WireError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A message was handled; what it gave has come before this."""


FromEndpoint = Start | CryptoData | TransportParameters | Cancel | Lookup | Malformed
FromDaemon = (
    CryptoData | TrafficSecret | PeerTransportParameters | Done | LookupAnswer | Refused | Acknowledged | Malformed
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
    DoneAttribute.ALERT: Policy("alert", Kind.U32, 255),
    DoneAttribute.REASON: Policy("reason", Kind.STRING, 1024),
    DoneAttribute.ALPN: Policy("alpn", Kind.BINARY, 255),
    DoneAttribute.SERVER_NAME: Policy("server-name", Kind.STRING, 255),
    DoneAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255),
    DoneAttribute.CIPHER_SUITE: Policy("cipher-suite", Kind.U32, 0xFFFF),
    DoneAttribute.RESUMED: Policy("resumed", Kind.FLAG),
    DoneAttribute.PEER_CERTIFICATE: Policy("peer-certificate", Kind.BINARY, 65531, multi=True),
    DoneAttribute.EARLY_DATA_ACCEPTED: Policy("early-data-accepted", Kind.FLAG),
}
_CANCEL = {CancelAttribute.REASON: Policy("reason", Kind.STRING, 1024)}
_SESSION_TICKET = {
    SessionTicketAttribute.STATE: Policy("state", Kind.BINARY, 65000, required=True),
    SessionTicketAttribute.EXPIRES: Policy("expires", Kind.U32, required=True),
    SessionTicketAttribute.EARLY_DATA: Policy("early-data", Kind.FLAG),
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
}


def push_start(sequence: int, start: Start, *, ack: bool = False) -> bytes:
    """START, from the endpoint; with `ack`, an acknowledgement follows what it gives."""
    a = StartAttribute
    parts = [push_u32(a.MESSAGE_TYPE, start.role), push_u32(a.AUTH_MODE, start.auth_mode)]
    if start.timeout is not None:
        parts.append(push_u32(a.TIMEOUT, round(start.timeout * 1000)))
    if start.server_name is not None:
        parts.append(push_string(a.PEERNAME, start.server_name))
    parts += [push_binary(a.ALPN, alpn) for alpn in start.alpns]
    if start.transport_parameters is not None:
        parts.append(push_binary(a.TRANSPORT_PARAMETERS, start.transport_parameters))
    if start.registration is not None:
        parts.append(push_string(a.REGISTRATION, start.registration))
    if start.credential is not None:
        parts.append(push_binary(a.CREDENTIAL, start.credential))
    parts += [push_binary(a.TRUST_ANCHOR, anchor) for anchor in start.trust_anchors]
    parts += [push_u32(a.CIPHER_SUITE, suite) for suite in start.cipher_suites]
    if start.session_ticket is not None:
        parts.append(push_binary(a.SESSION_TICKET, start.session_ticket))
    if start.ticket_seconds:
        parts.append(push_u32(a.TICKET_SECONDS, start.ticket_seconds))
    if start.early_data is not None:
        parts.append(push_binary(a.EARLY_DATA, start.early_data))
    if start.peer_address is not None:
        parts.append(push_string(a.PEER_ADDRESS, start.peer_address))
    return push_message(FAMILY, sequence, Command.START, b"".join(parts), NLM_F_REQUEST | _ack(ack))


def push_crypto(sequence: int, data: CryptoData, *, ack: bool = False) -> bytes:
    """CRYPTO, either way; data beyond MAX_CRYPTO bytes goes into several messages. `ack` as in ``push_start``."""
    level = push_u32(CryptoAttribute.LEVEL, data.level)
    return b"".join(
        push_message(
            FAMILY,
            sequence,
            Command.CRYPTO,
            level + push_binary(CryptoAttribute.DATA, data.data[start : start + MAX_CRYPTO]),
            _ack(ack and start + MAX_CRYPTO >= len(data.data)),
        )
        for start in range(0, max(len(data.data), 1), MAX_CRYPTO)
    )


def push_secret(sequence: int, secret: TrafficSecret) -> bytes:
    """SECRET, from the daemon."""
    a = SecretAttribute
    return push_message(
        FAMILY,
        sequence,
        Command.SECRET,
        push_u32(a.LEVEL, secret.level)
        + push_u32(a.DIRECTION, secret.direction)
        + push_u32(a.CIPHER_SUITE, secret.cipher_suite)
        + push_binary(a.SECRET, secret.secret),
    )


def push_peer_transport_parameters(sequence: int, event: PeerTransportParameters) -> bytes:
    """TRANSPORT_PARAMETERS, from the daemon: the peer's."""
    a = TransportParametersAttribute
    return push_message(
        FAMILY,
        sequence,
        Command.TRANSPORT_PARAMETERS,
        push_binary(a.PARAMETERS, event.transport_parameters) + push_binary(a.ALPN, event.alpn),
    )


def push_transport_parameters(sequence: int, transport_parameters: bytes, *, ack: bool = False) -> bytes:
    """TRANSPORT_PARAMETERS, from the endpoint: its own. `ack` as in ``push_start``."""
    body = push_binary(TransportParametersAttribute.PARAMETERS, transport_parameters)
    return push_message(FAMILY, sequence, Command.TRANSPORT_PARAMETERS, body, _ack(ack))


def push_done(sequence: int, outcome: Outcome) -> bytes:
    """DONE, from the daemon."""
    a = DoneAttribute
    parts = [push_u32(a.STATUS, outcome.status)]
    if outcome.alert is not None:
        parts.append(push_u32(a.ALERT, outcome.alert))
    if outcome.status:
        parts.append(push_string(a.REASON, printable(outcome.reason)))
    if outcome.alpn is not None:
        parts.append(push_binary(a.ALPN, outcome.alpn))
    if outcome.server_name is not None:
        parts.append(push_string(a.SERVER_NAME, printable(outcome.server_name, 255)))
    if outcome.registration is not None:
        parts.append(push_string(a.REGISTRATION, outcome.registration))
    if outcome.cipher_suite is not None:
        parts.append(push_u32(a.CIPHER_SUITE, outcome.cipher_suite))
    if outcome.resumed:
        parts.append(push_binary(a.RESUMED, b""))
    if outcome.early_data_accepted:
        parts.append(push_binary(a.EARLY_DATA_ACCEPTED, b""))
    parts += [push_binary(a.PEER_CERTIFICATE, certificate) for certificate in outcome.peer_certificates]
    return push_message(FAMILY, sequence, Command.DONE, b"".join(parts))


def push_session_ticket(sequence: int, ticket: SessionTicket) -> bytes:
    """SESSION_TICKET, from the daemon."""
    a = SessionTicketAttribute
    body = push_binary(a.STATE, ticket.state) + push_u32(a.EXPIRES, int(ticket.expires))
    if ticket.early_data:
        body += push_binary(a.EARLY_DATA, b"")
    return push_message(FAMILY, sequence, Command.SESSION_TICKET, body)


def push_cancel(sequence: int, reason: str = "") -> bytes:
    """CANCEL, from the endpoint."""
    body = push_string(CancelAttribute.REASON, printable(reason)) if reason else b""
    return push_message(FAMILY, sequence, Command.CANCEL, body)


def push_lookup(sequence: int, lookup: Lookup) -> bytes:
    """LOOKUP, from the endpoint."""
    a = LookupAttribute
    parts = [push_binary(a.DATAGRAM, datagram) for datagram in lookup.datagrams]
    if lookup.client_hello is not None:
        parts.append(push_binary(a.CLIENT_HELLO, lookup.client_hello))
    return push_message(FAMILY, sequence, Command.LOOKUP, b"".join(parts), NLM_F_REQUEST)


def push_lookup_answer(sequence: int, answer: LookupAnswer) -> bytes:
    """LOOKUP, from the daemon."""
    a = LookupAttribute
    parts = [push_u32(a.STATUS, answer.status)]
    if answer.registration is not None:
        parts.append(push_string(a.REGISTRATION, answer.registration))
    if answer.alpn is not None:
        parts.append(push_binary(a.ALPN, answer.alpn))
    if answer.server_name is not None:
        parts.append(push_string(a.SERVER_NAME, printable(answer.server_name, 255)))
    if answer.alert is not None:
        parts.append(push_u32(a.ALERT, answer.alert))
    if answer.reason:
        parts.append(push_string(a.REASON, printable(answer.reason)))
    return push_message(FAMILY, sequence, Command.LOOKUP, b"".join(parts))


def pull_from_endpoint(packet: bytes) -> Iterator[tuple[int, FromEndpoint, bool]]:
    """What an endpoint sent: sequence number, message, whether to acknowledge it.

    FramingError where the packet falls apart.
    """
    for frame in pull_frames(packet):
        ack = bool(frame.flags & NLM_F_ACK)
        try:
            yield frame.sequence, _pull(frame, _FROM_ENDPOINT), ack
        except WireError as error:
            yield frame.sequence, Malformed(error), False


def pull_from_daemon(packet: bytes) -> Iterator[tuple[int, FromDaemon]]:
    """What the daemon sent: sequence number and message. FramingError as above."""
    for frame in pull_frames(packet):
        try:
            if frame.family == NLMSG_ERROR:
                error = pull_error(frame.attributes)
                yield frame.sequence, Acknowledged() if error is None else Refused(error)
            else:
                yield frame.sequence, _pull(frame, _FROM_DAEMON)
        except WireError as malformed:
            yield frame.sequence, Malformed(malformed)


def join_packets(messages: list[bytes]) -> list[bytes]:
    """`messages` in as few packets as the limit allows."""
    packets: list[list[bytes]] = [[]]
    size = 0
    for message in messages:
        if packets[-1] and size + len(message) > MAX_PACKET:
            packets.append([])
            size = 0
        packets[-1].append(message)
        size += len(message)
    return [b"".join(packet) for packet in packets if packet]


def printable(text: str, limit: int = 1000) -> str:
    """`text` with everything unprintable escaped and cut to `limit` bytes: peers may have a hand in it."""
    escaped = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return escaped if 4 * len(escaped) <= limit else escaped.encode()[:limit].decode(errors="ignore")


def _ack(wanted: bool) -> int:
    return NLM_F_ACK if wanted else 0


def _pull(frame: Frame, pullers: dict[Command, Callable[[dict[int, Any]], Any]]) -> Any:
    if frame.family != FAMILY:
        raise WireError(f"nlmsg_type is {frame.family}, this socket speaks {FAMILY}", status=Status.UNSUPPORTED)
    if frame.version != VERSION:
        raise WireError(f"version {frame.version} of the family is not known", status=Status.UNSUPPORTED)
    try:
        puller = pullers[Command(frame.command)]
    except (ValueError, KeyError):
        raise WireError(f"command {frame.command} is not understood here", status=Status.UNSUPPORTED) from None
    return puller(pull_attributes(frame, POLICIES[Command(frame.command)]))


def _pull_start(values: dict[int, Any]) -> Start:
    a = StartAttribute
    if values[a.MESSAGE_TYPE] == 0:
        raise WireError("is 0; a client is 1, a server 2", attribute="message-type")
    alpns = values.get(a.ALPN, [])
    if len(alpns) > 64 or b"" in alpns:
        raise WireError("is empty, or there are more than 64", attribute="alpn")
    if len(values.get(a.TRUST_ANCHOR, [])) > 64:
        raise WireError("is given more than 64 times", attribute="trust-anchor")
    if len(values.get(a.CREDENTIAL, bytes(32))) != 32:
        raise WireError("is a SHA-256 of 32 bytes", attribute="credential")
    timeout = values.get(a.TIMEOUT)
    return Start(
        role=Role(values[a.MESSAGE_TYPE]),
        timeout=None if timeout is None else timeout / 1000,
        auth_mode=AuthMode(values.get(a.AUTH_MODE, AuthMode.X509)),
        server_name=values.get(a.PEERNAME),
        alpns=tuple(alpns),
        transport_parameters=values.get(a.TRANSPORT_PARAMETERS),
        registration=values.get(a.REGISTRATION),
        credential=values.get(a.CREDENTIAL),
        cipher_suites=tuple(map(_cipher_suite, values.get(a.CIPHER_SUITE, ()))),
        trust_anchors=tuple(values.get(a.TRUST_ANCHOR, ())),
        session_ticket=values.get(a.SESSION_TICKET),
        ticket_seconds=values.get(a.TICKET_SECONDS, 0),
        early_data=values.get(a.EARLY_DATA),
        peer_address=values.get(a.PEER_ADDRESS),
    )


def _pull_crypto(values: dict[int, Any]) -> CryptoData:
    return CryptoData(Level(values[CryptoAttribute.LEVEL]), values[CryptoAttribute.DATA])


def _pull_secret(values: dict[int, Any]) -> TrafficSecret:
    a = SecretAttribute
    return TrafficSecret(
        Level(values[a.LEVEL]),
        Direction(values[a.DIRECTION]),
        _cipher_suite(values[a.CIPHER_SUITE]),
        values[a.SECRET],
    )


def _pull_transport_parameters(values: dict[int, Any]) -> TransportParameters:
    if TransportParametersAttribute.ALPN in values:
        raise WireError("comes from the daemon only", attribute="alpn")
    return TransportParameters(values[TransportParametersAttribute.PARAMETERS])


def _pull_peer_transport_parameters(values: dict[int, Any]) -> PeerTransportParameters:
    a = TransportParametersAttribute
    return PeerTransportParameters(values[a.PARAMETERS], values.get(a.ALPN, b""))


def _pull_done(values: dict[int, Any]) -> Done:
    a = DoneAttribute
    suite = values.get(a.CIPHER_SUITE)
    return Done(
        Outcome(
            status=values[a.STATUS],
            alert=_alert(values.get(a.ALERT)),
            reason=values.get(a.REASON, ""),
            alpn=values.get(a.ALPN),
            server_name=values.get(a.SERVER_NAME),
            registration=values.get(a.REGISTRATION),
            cipher_suite=None if suite is None else _cipher_suite(suite),
            resumed=values.get(a.RESUMED, False),
            early_data_accepted=values.get(a.EARLY_DATA_ACCEPTED, False),
            peer_certificates=tuple(values.get(a.PEER_CERTIFICATE, ())),
        )
    )


def _pull_session_ticket(values: dict[int, Any]) -> SessionTicket:
    a = SessionTicketAttribute
    return SessionTicket(values[a.STATE], values[a.EXPIRES], values.get(a.EARLY_DATA, False))


def _pull_lookup(values: dict[int, Any]) -> Lookup:
    a = LookupAttribute
    if not values.keys() <= {a.CLIENT_HELLO, a.DATAGRAM} or len(values) != 1:
        raise WireError("a lookup carries either a client-hello or datagrams", attribute="client-hello")
    return Lookup(values.get(a.CLIENT_HELLO), tuple(values.get(a.DATAGRAM, ())))


def _pull_lookup_answer(values: dict[int, Any]) -> LookupAnswer:
    a = LookupAttribute
    if a.STATUS not in values:
        raise WireError("is missing", attribute="status")
    return LookupAnswer(
        status=values[a.STATUS],
        registration=values.get(a.REGISTRATION),
        alpn=values.get(a.ALPN),
        server_name=values.get(a.SERVER_NAME),
        alert=_alert(values.get(a.ALERT)),
        reason=values.get(a.REASON, ""),
    )


def _cipher_suite(value: int) -> CipherSuite:
    try:
        return CipherSuite(value)
    except ValueError:
        raise WireError(f"{value:#06x} is not a TLS 1.3 cipher suite", attribute="cipher-suite") from None


def _alert(value: int | None) -> Alert | None:
    try:
        return None if value is None else Alert(value)
    except ValueError:
        raise WireError(f"{value} is not an alert", attribute="alert") from None


_FROM_ENDPOINT: dict[Command, Callable[[dict[int, Any]], Any]] = {
    Command.START: _pull_start,
    Command.CRYPTO: _pull_crypto,
    Command.TRANSPORT_PARAMETERS: _pull_transport_parameters,
    Command.CANCEL: lambda values: Cancel(values.get(CancelAttribute.REASON, "")),
    Command.LOOKUP: _pull_lookup,
}
_FROM_DAEMON: dict[Command, Callable[[dict[int, Any]], Any]] = {
    Command.CRYPTO: _pull_crypto,
    Command.SECRET: _pull_secret,
    Command.TRANSPORT_PARAMETERS: _pull_peer_transport_parameters,
    Command.DONE: _pull_done,
    Command.LOOKUP: _pull_lookup_answer,
    Command.SESSION_TICKET: _pull_session_ticket,
}
