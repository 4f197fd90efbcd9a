"""What to do with a datagram of an unknown flow. Sans-IO: the datagram and the time come in, a decision comes out.

Nothing here is kept for a client whose ClientHello comes whole in one datagram. What is kept of the others is bounded
in flows, bytes, time and flows per source; beyond that, the oldest go first.
"""

import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from handshaked.demux.retry_tokens import RetryTokens
from handshaked.errors import Alert, PeerError
from handshaked.model import Caller
from handshaked.quic.answers import INVALID_TOKEN, push_close, push_retry, push_version_negotiation
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import (
    MAX_CID,
    SMALLEST_INITIAL,
    VERSIONS,
    LongHeader,
    is_initial,
    pull_initials,
    pull_long_header,
)
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Query, Snapshot
from handshaked.tls.client_hello import ClientHelloMessage, pull_client_hello
from handshaked.wire.addresses import Address, show_address, source_of

_EVERYONE = Caller(uid=0)  # the demultiplexer has no users of its own: whose a connection is, its name and ALPN say
_RETRY_CID = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """What unfinished ClientHellos may take. Times are in seconds."""

    flows: int = 16384
    flow_bytes: int = 48 * 1024
    """Of its datagrams, and of what they were put together to."""
    client_hello_bytes: int = 16 * 1024
    total_bytes: int = 64 * 1024 * 1024
    flows_per_source: int = 256
    seconds: float = 5.0
    retry_from: int = 2000
    """Clients are sent a Retry from this many new connections in a second on."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing; `reason` is for the counters."""

    reason: str


@dataclass(frozen=True, slots=True)
class Buffered:
    """The datagram was kept: its ClientHello is not whole yet."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `datagram` back; `reason` is for the counters and the log."""

    datagram: bytes = field(repr=False)
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A new connection for `registration`, with its `datagrams` so far."""

    registration: Registration
    alpn: bytes
    server_name: str | None
    header: LongHeader
    datagrams: tuple[bytes, ...] = field(repr=False)
    original_cid: bytes | None


@dataclass(frozen=True, slots=True)
class Existing:
    """Not of a new connection: the connection ID must tell where it belongs."""

    cid: bytes | None
    """None behind a short header."""


Decision = Drop | Buffered | Reply | Deliver | Existing


class _Flight:
    """The datagrams of one connection whose ClientHello is not whole."""

    __slots__ = ("assembler", "datagrams", "expires", "header", "original_cid", "size", "source")

    def __init__(self, header: LongHeader, limit: int, original_cid: bytes | None) -> None:
        self.header = header
        self.assembler = ClientHelloAssembler(limit)
        self.datagrams: list[bytes] = []
        self.size = 0
        self.original_cid = original_cid
        self.expires = 0.0
        self.source = ""


class Dispatcher:
    """Decides by ``snapshot``, which may be replaced at any time."""

    def __init__(self, bounds: Bounds, snapshot: Snapshot | None = None) -> None:
        self._bounds = bounds
        self._tokens = RetryTokens()
        self._flights: OrderedDict[tuple[Address, bytes], _Flight] = OrderedDict()
        self._sources: Counter[str] = Counter()
        self._bytes = 0
        self._second = 0.0
        self._new = 0
        self._snapshot = Snapshot()
        self._forwards = False
        self.snapshot = snapshot or Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The registrations of the moment."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._forwards = any(
            parse_delivery(registration.policy.deliver).way is Way.FORWARD for registration in snapshot.registrations
        )

    def __len__(self) -> int:
        """How many flows wait for the rest of their ClientHello."""
        return len(self._flights)

    @property
    def bytes_kept(self) -> int:
        """Bytes of datagrams that are kept, and of what they were put together to."""
        return self._bytes

    def receive(self, datagram: bytes, peer: Address, now: float) -> Decision:
        """What to do with `datagram` from `peer`."""
        header = pull_long_header(datagram)
        if header is None:
            return Drop("malformed") if not datagram or datagram[0] & 0x80 else Existing(None)
        if header.version not in VERSIONS:
            # A server does not answer what no client of a version it could know sends (RFC 9000 section 5.2.2).
            if header.version == 0 or len(datagram) < SMALLEST_INITIAL:
                return Drop("version")
            return Reply(push_version_negotiation(header), "version_negotiation")
        if max(len(header.destination_cid), len(header.source_cid)) > MAX_CID:
            return Drop("malformed")
        key = (peer, header.destination_cid)
        flight = self._flights.get(key)
        if not is_initial(datagram, header.version):
            if flight is None:
                return Existing(header.destination_cid)
            return self._keep(key, flight, datagram)
        if len(datagram) < SMALLEST_INITIAL:
            return Drop("small")  # section 14.1
        if flight is None:
            return self._admit(key, header, datagram, now)
        return self._advance(key, flight, datagram, now)

    def expire(self, now: float) -> int:
        """Forget the flows whose time is up; how many."""
        count = 0
        while self._flights and next(iter(self._flights.values())).expires <= now:
            self._forget(next(iter(self._flights)))
            count += 1
        return count

    def _admit(self, key: tuple[Address, bytes], header: LongHeader, datagram: bytes, now: float) -> Decision:
        packets = pull_initials(datagram)
        token = packets[0].token if packets else b""
        ours = self._tokens.is_ours(token)
        if packets and not ours and not self._forwards and self._is_busy(now):
            self._new += 1
            return self._retry(header, show_address(key[0]), now)  # unopened: that is most of the work
        original = self._tokens.open(token, show_address(key[0]), header.destination_cid, now) if ours else None
        flight = _Flight(header, self._bounds.client_hello_bytes, original)
        try:
            message = flight.assembler.receive_packets(packets)
            if flight.assembler.connection is None:
                # A client that has moved in mid-handshake calls its server by the name that that has given.
                return Existing(header.destination_cid)
            if ours and original is None:
                # It takes no second Retry, and would not take a server that knows of none (RFC 9000 section 8.1.3).
                return Reply(push_close(header, INVALID_TOKEN, "invalid_token"), "invalid_token")
            # A server that is forwarded to would not know of our Retry: its client would take that for an attack.
            # Where there are such servers, none is sent before it is known where the connection goes.
            busy = original is None and self._is_busy(now)
            self._new += 1
            if message is not None:
                return self._route(key, flight, datagram, message, now, busy=busy)
        except PeerError as error:
            return _closing(header, error)
        return self._hold(key, flight, datagram, now)

    def _advance(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, now: float) -> Decision:
        try:
            message = flight.assembler.receive(datagram)
        except PeerError as error:
            self._forget(key)
            return _closing(flight.header, error)
        if message is None:
            return self._keep(key, flight, datagram)
        self._forget(key)
        try:
            return self._route(key, flight, datagram, message, now, busy=False)
        except PeerError as error:
            return _closing(flight.header, error)

    def _route(
        self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, message: bytes, now: float, *, busy: bool
    ) -> Decision:
        hello: ClientHelloMessage = pull_client_hello(message)
        if not hello.alpns:
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the client offers no application protocol")
        registration, alpn = self._snapshot.route(Query(_EVERYONE, hello.server_name, hello.alpns))
        if busy and parse_delivery(registration.policy.deliver).way is not Way.FORWARD:
            return self._retry(flight.header, show_address(key[0]), now)
        return Deliver(
            registration,
            alpn,
            hello.server_name,
            flight.header,
            (*flight.datagrams, datagram),
            flight.original_cid,
        )

    def _retry(self, header: LongHeader, peer: str, now: float) -> Reply:
        cid = os.urandom(_RETRY_CID)
        token = self._tokens.seal(peer, header.destination_cid, cid, now)
        return Reply(push_retry(header, cid, token), "retry")

    def _is_busy(self, now: float) -> bool:
        """Whether there are too many new connections."""
        if now - self._second >= 1.0:
            self._second, self._new = now, 0
        return self._new >= self._bounds.retry_from or len(self._flights) > self._bounds.flows // 2

    def _hold(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, now: float) -> Decision:
        flight.source = source_of(key[0])
        if self._sources[flight.source] >= self._bounds.flows_per_source:
            return Drop("source")
        while self._flights and len(self._flights) >= self._bounds.flows:
            self._forget(next(iter(self._flights)))
        flight.expires = now + self._bounds.seconds
        self._flights[key] = flight
        self._sources[flight.source] += 1
        return self._keep(key, flight, datagram)

    def _keep(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes) -> Decision:
        flight.datagrams.append(datagram)
        size = sum(map(len, flight.datagrams)) + flight.assembler.bytes_kept
        self._bytes += size - flight.size
        flight.size = size
        if size > self._bounds.flow_bytes:
            self._forget(key)
            return Drop("flow_bytes")
        while self._bytes > self._bounds.total_bytes:
            self._forget(next(iter(self._flights)))
        return Buffered()

    def _forget(self, key: tuple[Address, bytes]) -> None:
        flight = self._flights.pop(key)
        self._bytes -= flight.size
        self._sources[flight.source] -= 1
        if not self._sources[flight.source]:
            del self._sources[flight.source]


def _closing(header: LongHeader, error: PeerError) -> Reply:
    return Reply(push_close(header, error.alert.quic_error, error.alert.label), error.alert.label, error.reason)
