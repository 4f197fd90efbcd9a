"""Codec of the family ``demux``, spoken by applications and demultiplexer (``netlink/handshaked-demux.yaml``).

An application sends LISTEN for a registration and receives a route, then a FLOW for each new connection, with the
connection's socket as a file descriptor. Addresses are written ``192.0.2.1:443`` and ``[2001:db8::1]:443``.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from handshaked.errors import Status, WireError
from handshaked.wire.fields import printable
from handshaked.wire.messages import Malformed, Refused
from handshaked.wire.netlink import (
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

FAMILY = 33
VERSION = 1
MAX_PACKET = 128 * 1024
"""Largest packet on the demultiplexer's socket, in bytes, either way."""
RETRY_TOKEN = b"hs-retry"
"""Start of the tokens in the demultiplexer's Retries, which tells them from tokens that servers issue (NEW_TOKEN)."""
ROUTE_SIZE = 4
"""Length in bytes of a route, the prefix of a listener's connection IDs."""


class Command(enum.IntEnum):
    """Types of messages."""

    LISTEN = 1
    FLOW = 2
    DATAGRAM = 3
    PATH = 4
    RELEASE = 5
    STATUS = 6


class ListenAttribute(enum.IntEnum):
    """Attributes of LISTEN, in both directions."""

    REGISTRATION = 1
    ROUTE = 2
    HELD = 3


class FlowAttribute(enum.IntEnum):
    """Attributes of FLOW, DATAGRAM, PATH and RELEASE."""

    PEER = 1
    LOCAL = 2
    DATAGRAM = 3
    REGISTRATION = 4
    SERVER_NAME = 5
    ALPN = 6
    ORIGINAL_CID = 7
    COUNT = 8
    RELAYED = 9


class StatusAttribute(enum.IntEnum):
    """Attributes of STATUS."""

    METRICS = 1


@dataclass(frozen=True, slots=True)
class Listen:
    """From the application: serve `registration`, if possible with `route` as before; it holds `held` flows."""

    registration: str
    route: bytes | None = None
    held: int = 0


@dataclass(frozen=True, slots=True)
class Listening:
    """The answer: connection IDs that begin with `route` lead to this application, from any address."""

    registration: str
    route: bytes


@dataclass(frozen=True, slots=True)
class Flow:
    """A socket for one peer, attached to the message: for a new connection, or for a new path of an existing one.

    A new connection has its `registration` and the `datagrams` received so far. After a Retry, `original_cid` is the
    destination connection ID of the client's first Initial. If `relayed`, the socket is not a UDP socket but one end
    of a SOCK_SEQPACKET pair on which each packet is a datagram.
    """

    peer: str
    local: str
    datagrams: tuple[bytes, ...] = field(default=(), repr=False)
    registration: str | None = None
    server_name: str | None = None
    alpn: bytes | None = None
    original_cid: bytes | None = None
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram of one of the application's connections, from an address that none of its sockets is connected to."""

    peer: str
    local: str
    datagram: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Path:
    """From the application: a connection has moved to `peer` and needs a socket for it. A Flow answers."""

    peer: str
    local: str


@dataclass(frozen=True, slots=True)
class Release:
    """From the application: it has closed `count` sockets received in FLOW messages."""

    count: int


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """A request for the demultiplexer's counters."""


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """The demultiplexer's counters, in Prometheus' text format."""

    metrics: str


FromApplication = Listen | Path | Release | StatusQuery | Malformed
FromDemux = Listening | Flow | Datagram | StatusAnswer | Refused | Malformed

_FLOW: dict[int, Policy] = {
    FlowAttribute.PEER: Policy("peer", Kind.STRING, 64),
    FlowAttribute.LOCAL: Policy("local", Kind.STRING, 64),
    FlowAttribute.DATAGRAM: Policy("datagram", Kind.BINARY, 65527, multi=True),
    FlowAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255),
    FlowAttribute.SERVER_NAME: Policy("server-name", Kind.STRING, 255),
    FlowAttribute.ALPN: Policy("alpn", Kind.BINARY, 255),
    FlowAttribute.ORIGINAL_CID: Policy("original-cid", Kind.BINARY, 20),
    FlowAttribute.COUNT: Policy("count", Kind.U32),
    FlowAttribute.RELAYED: Policy("relayed", Kind.FLAG),
}
_LISTEN: dict[int, Policy] = {
    ListenAttribute.REGISTRATION: Policy("registration", Kind.STRING, 255, required=True),
    ListenAttribute.ROUTE: Policy("route", Kind.BINARY, ROUTE_SIZE),
    ListenAttribute.HELD: Policy("held", Kind.U32, 1 << 24),
}
POLICIES: dict[Command, dict[int, Policy]] = {
    Command.LISTEN: _LISTEN,
    Command.FLOW: _FLOW,
    Command.DATAGRAM: _FLOW,
    Command.PATH: _FLOW,
    Command.RELEASE: _FLOW,
    Command.STATUS: {StatusAttribute.METRICS: Policy("metrics", Kind.BINARY, 65000)},
}


def push_listen(sequence: int, listen: Listen) -> bytes:
    """Encode LISTEN, sent by the application."""
    a = ListenAttribute
    parts = [push_string(a.REGISTRATION, listen.registration), push_u32(a.HELD, listen.held)]
    if listen.route is not None:
        parts.append(push_binary(a.ROUTE, listen.route))
    return _push(sequence, Command.LISTEN, parts, NLM_F_REQUEST)


def push_listening(sequence: int, listening: Listening) -> bytes:
    """Encode the answer to LISTEN, sent by the demultiplexer."""
    a = ListenAttribute
    parts = [push_string(a.REGISTRATION, listening.registration), push_binary(a.ROUTE, listening.route)]
    return _push(sequence, Command.LISTEN, parts)


def push_flow(sequence: int, flow: Flow) -> bytes:
    """Encode FLOW, sent by the demultiplexer with the socket as a file descriptor."""
    a = FlowAttribute
    parts = _addresses(flow)
    if flow.registration is not None:
        parts.append(push_string(a.REGISTRATION, flow.registration))
    if flow.server_name is not None:
        parts.append(push_string(a.SERVER_NAME, printable(flow.server_name, 255)))
    if flow.alpn is not None:
        parts.append(push_binary(a.ALPN, flow.alpn))
    if flow.original_cid is not None:
        parts.append(push_binary(a.ORIGINAL_CID, flow.original_cid))
    if flow.relayed:
        parts.append(push_binary(a.RELAYED, b""))
    parts += [push_binary(a.DATAGRAM, datagram) for datagram in flow.datagrams]
    return _push(sequence, Command.FLOW, parts)


def push_datagram(datagram: Datagram) -> bytes:
    """Encode DATAGRAM, sent by the demultiplexer."""
    parts = [*_addresses(datagram), push_binary(FlowAttribute.DATAGRAM, datagram.datagram)]
    return _push(0, Command.DATAGRAM, parts)


def push_path(sequence: int, path: Path) -> bytes:
    """Encode PATH, sent by the application."""
    return _push(sequence, Command.PATH, _addresses(path), NLM_F_REQUEST)


def push_release(release: Release) -> bytes:
    """Encode RELEASE, sent by the application."""
    return _push(0, Command.RELEASE, [push_u32(FlowAttribute.COUNT, release.count)])


def push_status(sequence: int, answer: StatusAnswer | None = None) -> bytes:
    """Encode STATUS: the request, or the `answer`."""
    parts = [] if answer is None else [push_binary(StatusAttribute.METRICS, answer.metrics.encode())]
    return _push(sequence, Command.STATUS, parts)


def pull_from_application(packet: bytes) -> Iterator[tuple[int, FromApplication]]:
    """Yield the messages of an application's packet, with sequence numbers. FramingError if it is malformed."""
    for frame in pull_frames(packet):
        try:
            yield frame.sequence, _pull(frame, _FROM_APPLICATION)
        except WireError as error:
            yield frame.sequence, Malformed(error)


def pull_from_demux(packet: bytes) -> Iterator[tuple[int, FromDemux]]:
    """Yield the messages of the demultiplexer's packet, with sequence numbers. FramingError if it is malformed."""
    for frame in pull_frames(packet):
        try:
            if frame.family == NLMSG_ERROR:
                error = pull_error(frame.attributes)
                if error is not None:
                    yield frame.sequence, Refused(error)
            else:
                yield frame.sequence, _pull(frame, _FROM_DEMUX)
        except WireError as malformed:
            yield frame.sequence, Malformed(malformed)


def _push(sequence: int, command: Command, parts: list[bytes], flags: int = 0) -> bytes:
    return push_message(FAMILY, sequence, command, b"".join(parts), flags)


def _addresses(message: Flow | Datagram | Path) -> list[bytes]:
    return [push_string(FlowAttribute.PEER, message.peer), push_string(FlowAttribute.LOCAL, message.local)]


def _pull(frame: Frame, pullers: dict[Command, Callable[[dict[int, Any]], Any]]) -> Any:
    if frame.family != FAMILY:
        raise WireError(f"nlmsg_type is {frame.family}, expected {FAMILY}", status=Status.UNSUPPORTED)
    if frame.version != VERSION:
        raise WireError(f"unsupported version {frame.version} of the family", status=Status.UNSUPPORTED)
    try:
        puller = pullers[Command(frame.command)]
    except (ValueError, KeyError):
        raise WireError(f"unsupported command {frame.command}", status=Status.UNSUPPORTED) from None
    return puller(pull_attributes(frame, POLICIES[Command(frame.command)]))


def _required(values: dict[int, Any], attribute: FlowAttribute) -> Any:
    if attribute not in values:
        raise WireError("is missing", attribute=attribute.name.lower())
    return values[attribute]


def _route(values: dict[int, Any]) -> bytes | None:
    route: bytes | None = values.get(ListenAttribute.ROUTE)
    if route is not None and len(route) != ROUTE_SIZE:
        raise WireError(f"has {len(route)} bytes, expected {ROUTE_SIZE}", attribute="route")
    return route


def _pull_listen(values: dict[int, Any]) -> Listen:
    a = ListenAttribute
    return Listen(values[a.REGISTRATION], _route(values), values.get(a.HELD, 0))


def _pull_listening(values: dict[int, Any]) -> Listening:
    route = _route(values)
    if route is None:
        raise WireError("is missing", attribute="route")
    return Listening(values[ListenAttribute.REGISTRATION], route)


def _pull_flow(values: dict[int, Any]) -> Flow:
    a = FlowAttribute
    return Flow(
        peer=_required(values, a.PEER),
        local=_required(values, a.LOCAL),
        datagrams=tuple(values.get(a.DATAGRAM, ())),
        registration=values.get(a.REGISTRATION),
        server_name=values.get(a.SERVER_NAME),
        alpn=values.get(a.ALPN),
        original_cid=values.get(a.ORIGINAL_CID),
        relayed=values.get(a.RELAYED, False),
    )


def _pull_datagram(values: dict[int, Any]) -> Datagram:
    a = FlowAttribute
    datagrams = values.get(a.DATAGRAM, [])
    if len(datagrams) != 1:
        raise WireError(f"is given {len(datagrams)} times, expected once", attribute="datagram")
    return Datagram(_required(values, a.PEER), _required(values, a.LOCAL), datagrams[0])


def _pull_path(values: dict[int, Any]) -> Path:
    return Path(_required(values, FlowAttribute.PEER), _required(values, FlowAttribute.LOCAL))


_FROM_APPLICATION: dict[Command, Callable[[dict[int, Any]], Any]] = {
    Command.LISTEN: _pull_listen,
    Command.PATH: _pull_path,
    Command.RELEASE: lambda values: Release(_required(values, FlowAttribute.COUNT)),
    Command.STATUS: lambda _: StatusQuery(),
}
_FROM_DEMUX: dict[Command, Callable[[dict[int, Any]], Any]] = {
    Command.LISTEN: _pull_listening,
    Command.FLOW: _pull_flow,
    Command.DATAGRAM: _pull_datagram,
    Command.STATUS: lambda values: StatusAnswer(values.get(StatusAttribute.METRICS, b"").decode(errors="replace")),
}
