"""Codec of the family ``handshaked``: ``push_x`` functions encode messages, ``pull_x`` functions decode them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from handshaked.errors import Status, WireError
from handshaked.events import CryptoData, PeerTransportParameters, SessionTicket, TrafficSecret
from handshaked.model import AuthMode, Direction, Level, Outcome, Role
from handshaked.wire.fields import printable, pull_alert, pull_cipher_suite
from handshaked.wire.lookup import pull_lookup, pull_lookup_answer
from handshaked.wire.messages import (
    FAMILY,
    MAX_CRYPTO,
    MAX_PACKET,
    POLICIES,
    VERSION,
    Acknowledged,
    Cancel,
    CancelAttribute,
    Close,
    CloseAttribute,
    Command,
    CryptoAttribute,
    Done,
    DoneAttribute,
    FromDaemon,
    FromEndpoint,
    Malformed,
    Refused,
    SecretAttribute,
    SessionTicketAttribute,
    Start,
    StartAttribute,
    TransportParameters,
    TransportParametersAttribute,
)
from handshaked.wire.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Frame,
    Policy,
    pull_attributes,
    pull_error,
    pull_frames,
    push_binary,
    push_message,
    push_string,
    push_u32,
)


def push_start(sequence: int, start: Start, *, ack: bool = False) -> bytes:
    """Encode START, sent by the endpoint; `ack` asks for an acknowledgement after the messages that it causes."""
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
    flags = {
        a.SOCKET: start.socket,
        a.CERTIFICATE_FILE: start.certificate_file,
        a.KEY_FILE: start.key_file,
        a.PSK_FILE: start.psk_file,
    }
    parts += [push_binary(flag, b"") for flag, given in flags.items() if given]
    return push_message(FAMILY, sequence, Command.START, b"".join(parts), NLM_F_REQUEST | _ack(ack))


def push_crypto(sequence: int, data: CryptoData, *, ack: bool = False) -> bytes:
    """Encode CRYPTO, sent by both sides; data beyond MAX_CRYPTO bytes is split. `ack` as in ``push_start``."""
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
    """Encode SECRET, sent by the daemon."""
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
    """Encode the peer's TRANSPORT_PARAMETERS, sent by the daemon."""
    a = TransportParametersAttribute
    return push_message(
        FAMILY,
        sequence,
        Command.TRANSPORT_PARAMETERS,
        push_binary(a.PARAMETERS, event.transport_parameters) + push_binary(a.ALPN, event.alpn),
    )


def push_transport_parameters(sequence: int, transport_parameters: bytes, *, ack: bool = False) -> bytes:
    """Encode an endpoint's own TRANSPORT_PARAMETERS. `ack` as in ``push_start``."""
    body = push_binary(TransportParametersAttribute.PARAMETERS, transport_parameters)
    return push_message(FAMILY, sequence, Command.TRANSPORT_PARAMETERS, body, _ack(ack))


def push_done(sequence: int, outcome: Outcome) -> bytes:
    """Encode DONE, sent by the daemon."""
    a = DoneAttribute
    parts = [push_u32(a.STATUS, outcome.status)]
    parts += [push_string(a.TAG, printable(tag, 255)) for tag in outcome.tags]
    if outcome.alert is not None:
        parts.append(push_u32(a.ALERT, outcome.alert))
    if outcome.quic_error is not None:
        parts.append(push_u32(a.QUIC_ERROR, outcome.quic_error))
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
    """Encode SESSION_TICKET, sent by the daemon."""
    a = SessionTicketAttribute
    body = push_binary(a.STATE, ticket.state) + push_u32(a.EXPIRES, int(ticket.expires))
    if ticket.early_data:
        body += push_binary(a.EARLY_DATA, b"")
    return push_message(FAMILY, sequence, Command.SESSION_TICKET, body)


def push_close(sequence: int, close: Close) -> bytes:
    """Encode CLOSE, sent by the daemon."""
    a = CloseAttribute
    body = push_u32(a.QUIC_ERROR, close.quic_error) + push_string(a.REASON, printable(close.reason))
    return push_message(FAMILY, sequence, Command.CLOSE, body)


def push_cancel(sequence: int, reason: str = "") -> bytes:
    """Encode CANCEL, sent by the endpoint."""
    body = push_string(CancelAttribute.REASON, printable(reason)) if reason else b""
    return push_message(FAMILY, sequence, Command.CANCEL, body)


def pull_from_endpoint(packet: bytes) -> Iterator[tuple[int, FromEndpoint, bool]]:
    """Yield each message of an endpoint's packet: its sequence number, the message, whether to acknowledge it.

    FramingError if the packet is malformed, after the messages before that.
    """
    for frame in pull_frames(packet):
        ack = bool(frame.flags & NLM_F_ACK)
        try:
            yield frame.sequence, _pull(frame, _FROM_ENDPOINT), ack
        except WireError as error:
            yield frame.sequence, Malformed(error), False


def pull_from_daemon(packet: bytes) -> Iterator[tuple[int, FromDaemon]]:
    """Yield the sequence number and content of each message in a packet of the daemon. FramingError as above."""
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
    """Join `messages` into as few packets as MAX_PACKET allows."""
    packets: list[list[bytes]] = [[]]
    size = 0
    for message in messages:
        if packets[-1] and size + len(message) > MAX_PACKET:
            packets.append([])
            size = 0
        packets[-1].append(message)
        size += len(message)
    return [b"".join(packet) for packet in packets if packet]


def _ack(wanted: bool) -> int:
    return NLM_F_ACK if wanted else 0


def _pull(frame: Frame, pullers: dict[int, "_Puller"]) -> Any:
    if frame.family != FAMILY:
        raise WireError(f"nlmsg_type is {frame.family}, expected {FAMILY}", status=Status.UNSUPPORTED)
    if frame.version != VERSION:
        raise WireError(f"unsupported version {frame.version} of the family", status=Status.UNSUPPORTED)
    puller = pullers.get(frame.command)
    if puller is None:
        raise WireError(f"unsupported command {frame.command}", status=Status.UNSUPPORTED)
    pull, policies = puller
    return pull(pull_attributes(frame, policies))


_LEVELS = tuple(sorted(Level))


_START_FIELDS: dict[int, tuple[str, Callable[[Any], Any] | None]] = {
    StartAttribute.MESSAGE_TYPE: ("role", Role),
    StartAttribute.TIMEOUT: ("timeout", lambda milliseconds: milliseconds / 1000),
    StartAttribute.AUTH_MODE: ("auth_mode", AuthMode),
    StartAttribute.PEERNAME: ("server_name", None),
    StartAttribute.ALPN: ("alpns", tuple),
    StartAttribute.TRANSPORT_PARAMETERS: ("transport_parameters", None),
    StartAttribute.REGISTRATION: ("registration", None),
    StartAttribute.CREDENTIAL: ("credential", None),
    StartAttribute.TRUST_ANCHOR: ("trust_anchors", tuple),
    StartAttribute.PEER_ADDRESS: ("peer_address", None),
    StartAttribute.CIPHER_SUITE: ("cipher_suites", lambda values: tuple(map(pull_cipher_suite, values))),
    StartAttribute.SESSION_TICKET: ("session_ticket", None),
    StartAttribute.TICKET_SECONDS: ("ticket_seconds", None),
    StartAttribute.EARLY_DATA: ("early_data", None),
    StartAttribute.SOCKET: ("socket", None),
    StartAttribute.CERTIFICATE_FILE: ("certificate_file", None),
    StartAttribute.KEY_FILE: ("key_file", None),
    StartAttribute.PSK_FILE: ("psk_file", None),
}


def _pull_start(values: dict[int, Any]) -> Start:
    a = StartAttribute
    if values[a.MESSAGE_TYPE] == 0:
        raise WireError("must be 1 (client) or 2 (server)", attribute="message-type")
    alpns = values.get(a.ALPN, [])
    if len(alpns) > 64 or b"" in alpns:
        raise WireError("is empty, or there are more than 64", attribute="alpn")
    if len(values.get(a.TRUST_ANCHOR, [])) > 64:
        raise WireError("is given more than 64 times", attribute="trust-anchor")
    if len(values.get(a.CREDENTIAL, bytes(32))) != 32:
        raise WireError("must be a SHA-256 digest of 32 bytes", attribute="credential")
    fields = {}
    for kind, value in values.items():
        name, pull = _START_FIELDS[kind]
        fields[name] = value if pull is None else pull(value)
    return Start(**fields)


def _pull_crypto(values: dict[int, Any]) -> CryptoData:
    return CryptoData(_LEVELS[values[CryptoAttribute.LEVEL]], values[CryptoAttribute.DATA])


def _pull_daemon_crypto(values: dict[int, Any]) -> CryptoData:
    data = _pull_crypto(values)
    if data.level is Level.EARLY:
        raise WireError("is early data, which has no CRYPTO frames", attribute="level")  # RFC 9000 section 12.4
    return data


def _pull_secret(values: dict[int, Any]) -> TrafficSecret:
    a = SecretAttribute
    suite = pull_cipher_suite(values[a.CIPHER_SUITE])
    if values[a.LEVEL] == Level.INITIAL:
        raise WireError("is initial, whose keys come from a connection ID", attribute="level")  # RFC 9001 section 5.2
    if len(values[a.SECRET]) != suite.secret_length:
        raise WireError(f"must have {suite.secret_length} bytes for its cipher suite", attribute="secret")
    return TrafficSecret(Level(values[a.LEVEL]), Direction(values[a.DIRECTION]), suite, values[a.SECRET])


def _pull_transport_parameters(values: dict[int, Any]) -> TransportParameters:
    if TransportParametersAttribute.ALPN in values:
        raise WireError("is sent only by the daemon", attribute="alpn")
    return TransportParameters(values[TransportParametersAttribute.PARAMETERS])


def _pull_peer_transport_parameters(values: dict[int, Any]) -> PeerTransportParameters:
    a = TransportParametersAttribute
    if a.ALPN not in values:
        raise WireError("is missing", attribute="alpn")
    return PeerTransportParameters(values[a.PARAMETERS], values[a.ALPN])


def _pull_done(values: dict[int, Any]) -> Done:
    a = DoneAttribute
    suite = values.get(a.CIPHER_SUITE)
    return Done(
        Outcome(
            status=values[a.STATUS],
            alert=pull_alert(values.get(a.ALERT)),
            reason=values.get(a.REASON, ""),
            alpn=values.get(a.ALPN),
            server_name=values.get(a.SERVER_NAME),
            registration=values.get(a.REGISTRATION),
            cipher_suite=None if suite is None else pull_cipher_suite(suite),
            resumed=values.get(a.RESUMED, False),
            early_data_accepted=values.get(a.EARLY_DATA_ACCEPTED, False),
            peer_certificates=tuple(values.get(a.PEER_CERTIFICATE, ())),
            tags=tuple(values.get(a.TAG, ())),
            quic_error=values.get(a.QUIC_ERROR),
        )
    )


def _pull_session_ticket(values: dict[int, Any]) -> SessionTicket:
    a = SessionTicketAttribute
    return SessionTicket(values[a.STATE], values[a.EXPIRES], values.get(a.EARLY_DATA, False))


def _pullers(by_command: dict[Command, Callable[[dict[int, Any]], Any]]) -> dict[int, "_Puller"]:
    return {int(command): (pull, POLICIES[command]) for command, pull in by_command.items()}


_Puller = tuple[Callable[[dict[int, Any]], Any], Mapping[int, Policy]]
_FROM_ENDPOINT = _pullers(
    {
        Command.START: _pull_start,
        Command.CRYPTO: _pull_crypto,
        Command.TRANSPORT_PARAMETERS: _pull_transport_parameters,
        Command.CANCEL: lambda values: Cancel(values.get(CancelAttribute.REASON, "")),
        Command.LOOKUP: pull_lookup,
    }
)
_FROM_DAEMON = _pullers(
    {
        Command.CRYPTO: _pull_daemon_crypto,
        Command.SECRET: _pull_secret,
        Command.TRANSPORT_PARAMETERS: _pull_peer_transport_parameters,
        Command.DONE: _pull_done,
        Command.LOOKUP: pull_lookup_answer,
        Command.SESSION_TICKET: _pull_session_ticket,
        Command.CLOSE: lambda values: Close(values[CloseAttribute.QUIC_ERROR], values.get(CloseAttribute.REASON, "")),
    }
)
