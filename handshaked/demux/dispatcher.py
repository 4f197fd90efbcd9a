"""Decide what to do with a datagram of an unknown flow. Sans-IO: datagram and time come in, a decision comes out.

A client whose ClientHello fits in one datagram leaves no state here. The state of the others is bounded in flows,
bytes, time and flows per source; beyond that, the oldest flow is dropped first.
"""

import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from handshaked.demux.retry_tokens import RetriedClients, RetryTokens
from handshaked.errors import Alert, PeerError, QuicError
from handshaked.model import Caller
from handshaked.quic.answers import push_close, push_retry, push_version_negotiation
from handshaked.quic.initial import ClientHelloAssembler
from handshaked.quic.packets import (
    MAX_CID,
    SMALLEST_INITIAL,
    VERSIONS,
    LongHeader,
    is_initial,
    pull_long_header,
    pull_token,
)
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Query, Snapshot
from handshaked.tls.client_hello import ClientHelloMessage, pull_client_hello
from handshaked.wire.addresses import Address, show_address, source_of

_ANY_CALLER = Caller(uid=0)  # server name and ALPN alone select the registration, whoever may use it
_RETRY_CID_SIZE = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the state of incomplete ClientHellos. Times are in seconds."""

    flows: int = 16384
    flow_bytes: int = 48 * 1024
    """Datagrams and reassembled data of one flow."""
    client_hello_bytes: int = 16 * 1024
    total_bytes: int = 64 * 1024 * 1024
    flows_per_source: int = 256
    seconds: float = 5.0
    retry_from: int = 100
    """New connections per second above which clients get a Retry. Behind the port, each costs its application and the
    daemon milliseconds of processor time, whether its client exists or not."""
    invalid_tokens: int = 1000
    """Initials with an invalid token of a Retry that are opened and answered in a second."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the datagram; `reason` is the label of the counter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Buffered:
    """The datagram was buffered: its ClientHello is not complete yet."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `datagram` to the client; `reason` is the label of the counter, and is logged with `detail`."""

    datagram: bytes = field(repr=False)
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver a new connection, with its `datagrams` so far, to `registration`.

    `original_cid` is the destination connection ID of the client's first Initial, if a Retry was sent.
    """

    registration: Registration
    alpn: bytes
    server_name: str | None
    header: LongHeader
    datagrams: tuple[bytes, ...] = field(repr=False)
    original_cid: bytes | None


@dataclass(frozen=True, slots=True)
class Existing:
    """The datagram belongs to an existing connection, found by its connection ID."""

    cid: bytes | None
    """None with a short header, which does not carry the length of the connection ID."""


Decision = Drop | Buffered | Reply | Deliver | Existing


class ConnectionRate:
    """Compares the rate of new connections with `limit` per second: a token bucket for the connections of one second.

    An empty bucket means that the rate is too high, until the bucket is full again. Without that, part of a flood would
    pass all the time, and cost the full work.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._left = limit
        self._updated = 0.0
        self._too_high = False

    def is_too_high(self, now: float) -> bool:
        """Count a new connection; return whether there are too many."""
        self._left = min(self._limit, self._left + (now - self._updated) * self._limit)
        self._updated = now
        if self._left < 1.0:
            self._too_high = True
        elif self._left >= self._limit:
            self._too_high = False
        self._left = max(0.0, self._left - 1.0)
        return self._too_high


class _Flight:
    """The datagrams of one connection whose ClientHello is not complete."""

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
    """Decides by the registrations of ``snapshot``, which may be replaced at any time."""

    def __init__(self, bounds: Bounds, snapshot: Snapshot | None = None) -> None:
        self._bounds = bounds
        self._tokens = RetryTokens()
        self._retried = RetriedClients()
        self._flights: OrderedDict[tuple[Address, bytes], _Flight] = OrderedDict()
        self._sources: Counter[str] = Counter()
        self._bytes = 0
        self._rate = ConnectionRate(bounds.retry_from)
        self._invalid_since = 0.0
        self._invalid = 0
        self._snapshot = Snapshot()
        self._forwards = False
        self.snapshot = snapshot or Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """The current registrations."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._forwards = any(
            parse_delivery(registration.policy.deliver).way is Way.FORWARD for registration in snapshot.registrations
        )

    def __len__(self) -> int:
        """Return the number of flows with an incomplete ClientHello."""
        return len(self._flights)

    @property
    def bytes_kept(self) -> int:
        """The bytes of buffered datagrams and of reassembled data."""
        return self._bytes

    def receive(self, datagram: bytes, peer: Address, now: float) -> Decision:
        """Return what to do with `datagram` from `peer`; `now` is monotonic, in seconds."""
        header = pull_long_header(datagram)
        if header is None:
            return Drop("malformed") if not datagram or datagram[0] & 0x80 else Existing(None)
        if header.version not in VERSIONS:
            # No Version Negotiation for packets that are too small to start a connection (RFC 9000 section 5.2.2).
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
            return self._buffer(key, flight, datagram)
        if len(datagram) < SMALLEST_INITIAL:
            return Drop("small")  # RFC 9000 section 14.1
        if flight is None:
            return self._admit(key, header, datagram, now)
        return self._advance(key, flight, datagram, now)

    def expire(self, now: float) -> int:
        """Drop the flows whose time has expired. Return their number."""
        count = 0
        while self._flights and next(iter(self._flights.values())).expires <= now:
            self._forget(next(iter(self._flights)))
            count += 1
        return count

    def _admit(self, key: tuple[Address, bytes], header: LongHeader, datagram: bytes, now: float) -> Decision:
        token = pull_token(datagram, header)
        if token is None:
            return Existing(header.destination_cid)
        ours = self._tokens.is_ours(token)
        busy = not ours and (self._is_busy(now) or self._retried.has(*key, now))
        if busy and not self._forwards:
            return self._retry(key, header, now)  # without decryption, which is most of the work
        original = self._tokens.open(token, show_address(key[0]), header.destination_cid, now) if ours else None
        if ours and original is None and self._has_too_many_invalid_tokens(now):
            return Existing(header.destination_cid)  # as it is for a client that has moved; all others are dropped
        flight = _Flight(header, self._bounds.client_hello_bytes, original)
        try:
            message = flight.assembler.receive(datagram)
            if flight.assembler.connection is None:
                # The Initial of a client that has moved during its handshake carries the server's connection ID.
                return Existing(header.destination_cid)
            if ours and original is None:
                # The client accepts neither a second Retry nor a server that does not know of the first one
                # (RFC 9000 section 8.1.2).
                return Reply(push_close(header, QuicError.INVALID_TOKEN, "invalid_token"), "invalid_token")
            # A server behind ``forward`` does not know of our Retry, so its client would abort the connection. With
            # such registrations no Retry is sent before the registration is known.
            if message is not None:
                return self._route(key, flight, datagram, message, now, busy=busy)
        except PeerError as error:
            return _close(header, error)
        return self._start_flight(key, flight, datagram, now)

    def _advance(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, now: float) -> Decision:
        try:
            message = flight.assembler.receive(datagram)
        except PeerError as error:
            self._forget(key)
            return _close(flight.header, error)
        if message is None:
            return self._buffer(key, flight, datagram)
        self._forget(key)
        try:
            return self._route(key, flight, datagram, message, now, busy=False)
        except PeerError as error:
            return _close(flight.header, error)

    def _route(
        self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, message: bytes, now: float, *, busy: bool
    ) -> Decision:
        hello: ClientHelloMessage = pull_client_hello(message)
        if not hello.alpns:
            raise PeerError(Alert.NO_APPLICATION_PROTOCOL, "the client offers no application protocol")
        registration, alpn = self._snapshot.route(Query(_ANY_CALLER, hello.server_name, hello.alpns))
        if busy and parse_delivery(registration.policy.deliver).way is not Way.FORWARD:
            return self._retry(key, flight.header, now)
        return Deliver(
            registration,
            alpn,
            hello.server_name,
            flight.header,
            (*flight.datagrams, datagram),
            flight.original_cid,
        )

    def _retry(self, key: tuple[Address, bytes], header: LongHeader, now: float) -> Reply:
        cid = os.urandom(_RETRY_CID_SIZE)
        self._retried.add(*key, now)
        token = self._tokens.seal(show_address(key[0]), header.destination_cid, cid, now)
        return Reply(push_retry(header, cid, token), "retry")

    def _is_busy(self, now: float) -> bool:
        """Count a new connection. Return whether they arrive too fast, or too many ClientHellos are incomplete."""
        return self._rate.is_too_high(now) or len(self._flights) > self._bounds.flows // 2

    def _has_too_many_invalid_tokens(self, now: float) -> bool:
        """Count an invalid token: anybody can make one, from a spoofed address, and opening its packet is most work."""
        if now - self._invalid_since >= 1.0:
            self._invalid_since, self._invalid = now, 0
        self._invalid += 1
        return self._invalid > self._bounds.invalid_tokens

    def _start_flight(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes, now: float) -> Decision:
        flight.source = source_of(key[0])
        if self._sources[flight.source] >= self._bounds.flows_per_source:
            return Drop("source")
        while self._flights and len(self._flights) >= self._bounds.flows:
            self._forget(next(iter(self._flights)))
        flight.expires = now + self._bounds.seconds
        self._flights[key] = flight
        self._sources[flight.source] += 1
        return self._buffer(key, flight, datagram)

    def _buffer(self, key: tuple[Address, bytes], flight: _Flight, datagram: bytes) -> Decision:
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


def _close(header: LongHeader, error: PeerError) -> Reply:
    return Reply(push_close(header, error.quic_error, error.alert.label), error.alert.label, error.reason)
