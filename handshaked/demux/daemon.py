"""The process ``handshaked-demux``: one event loop, without keys and without root privileges.

The loop reads the shared sockets, the applications' sockets, the daemon's control socket and the forwarder's epoll, a
bounded batch at a time. ``dispatcher`` decides what to do with a datagram; this module does it.
"""

import asyncio
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from handshaked.callers.log_limit import LogLimit
from handshaked.demux.applications import AcceptBounds, Application, ApplicationEvents, Applications
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.dispatcher import Bounds, Buffered, Decision, Deliver, Dispatcher, Drop, Existing, Reply
from handshaked.demux.forwarded_flow import ForwardedFlow, ForwarderBounds
from handshaked.demux.forwarder import UdpForwarder
from handshaked.demux.registry_follower import RegistryFollower
from handshaked.demux.shared_port import LocalSocket, SharedPort
from handshaked.demux.sockets import OwnSockets, Sockets
from handshaked.errors import QuicError, Status, WireError
from handshaked.quic.answers import push_close
from handshaked.registry.delivery import Delivery, Way, parse_delivery
from handshaked.registry.names import show_alpn
from handshaked.registry.snapshot import Snapshot
from handshaked.system import signals
from handshaked.system.listening import BoundPaths
from handshaked.system.memory import MemoryReturn
from handshaked.system.readiness import Readiness
from handshaked.system.systemd import notify, watchdog_interval
from handshaked.wire import demux as wire
from handshaked.wire.addresses import Address, parse_address, show_address, source_of
from handshaked.wire.fields import printable

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0
_MAX_PASSED_PER_SECOND = 2000
# New connections wait this long after a start, because applications, which try every half second, may not have
# reconnected yet on a busy machine.
_GRACE_SECONDS = 3.0
_MAX_WAITING = 4096
_MAX_RECENT = 4096


Target = Application | ForwardedFlow
K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """A dictionary of the `limit` entries set last, so that clients cannot make it grow without limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._limit:
            del self[next(iter(self))]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the command line."""

    control_socket: Path
    bounds: Bounds = field(default=Bounds())
    forwarder: ForwarderBounds = field(default=ForwarderBounds())
    applications: AcceptBounds = field(default=AcceptBounds())


class Demux:
    """Delivers connections of the UDP sockets `shared` to the applications of `listener`, or forwards them."""

    def __init__(
        self,
        settings: Settings,
        shared: list[socket.socket],
        listener: socket.socket,
        sockets: Sockets | None = None,
    ) -> None:
        self._sockets = sockets or OwnSockets()
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._log_limit = LogLimit()
        self._counts: Counter[str] = Counter()
        self._connection_ids: ConnectionIds[Application, ForwardedFlow] = ConnectionIds()
        self._dispatcher = Dispatcher(settings.bounds)
        self._forwarder = UdpForwarder(settings.forwarder, self._connection_ids, self._sockets)
        self._forwarder.on_unreachable = self._unreachable
        self._forwarder.on_unknown = self._look_anew
        self._applications = Applications(
            listener,
            self._connection_ids,
            settings.applications,
            ApplicationEvents(self._open_path, self._deliver_waiting, self.metrics),
            self._log_limit,
        )
        self._follower = RegistryFollower(settings.control_socket, self._set_snapshot)
        self._recent: dict[LocalSocket, BoundedDict[Address, Application]] = {}
        self._mark = 0  # ECN mark of the current datagram; all of a ClientHello are forwarded with that of the last one
        self._moved: BoundedDict[tuple[LocalSocket, Address], Application] = BoundedDict(_MAX_RECENT)
        self._paths = BoundPaths((Path(listener.getsockname()),), "handshaked-demux")
        self._shared = shared
        self._ports: list[SharedPort] = []
        self._waiting: dict[tuple[Address, bytes], tuple[Deliver, LocalSocket]] = {}
        self._grace_ends = float("inf")
        self._passed = 0
        self._watched = watchdog_interval() is not None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. UnavailableError if somebody removes the applications' socket.

        Unexpected errors of the tasks are raised, too.
        """
        stop = asyncio.Event()
        with signals.handled({signal.SIGTERM: stop.set, signal.SIGINT: stop.set}):
            await self._serve(stop)

    async def _serve(self, stop: asyncio.Event) -> None:
        self._watch(self._forwarder.fileno(), lambda: self._forwarder.run(time.monotonic()))
        work = (stop.wait(), self._follower.run(), self._sweep(), MemoryReturn().run(), self._paths.watch())
        tasks = [asyncio.create_task(one) for one in work]
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        notify(STOPPING="1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._applications.close()
        self._log_limit.report_dropped()
        for task in ended:
            task.result()

    def _watch(self, sock: socket.socket | int, call: Callable[[], None]) -> None:
        Readiness(sock, "the network", call).start()

    def metrics(self) -> str:
        """Return counters and gauges in the Prometheus text format."""
        lines = [
            f'handshaked_demux_{kind}_total{{reason="{reason}"}} {count}'
            for (kind, _, reason), count in sorted((name.partition("/"), count) for name, count in self._counts.items())
        ]
        gauges = {
            "registrations": len(self._dispatcher.snapshot),
            "registry_connected": int(self._follower.connected),
            "pending_flows": len(self._dispatcher),
            "pending_bytes": self._dispatcher.bytes_kept,
            "relays": len(self._forwarder),
            "learned_connection_ids": len(self._connection_ids),
            "applications": len(self._applications),
            "accepted_flows": self._applications.held,
            "socket_failures": self._sockets.failures,
        }
        return "\n".join([*lines, *(f"handshaked_demux_{name} {value}" for name, value in gauges.items())]) + "\n"

    def _set_snapshot(self, snapshot: Snapshot) -> None:
        self._dispatcher.snapshot = self._applications.snapshot = snapshot
        log.debug("%d registrations, generation %d", len(snapshot), snapshot.generation)
        if not self._ports:
            self._ports = [
                SharedPort(sock, self._watch, self._receive, self._drained, self._sockets) for sock in self._shared
            ]
            self._applications.open()
            log.info("serving %s", ", ".join(show_address(port.address) for port in self._ports))
            notify(READY="1")
            self._grace_ends = self._loop.time() + _GRACE_SECONDS
            self._loop.call_at(self._grace_ends, self._deliver_waiting)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            self._counts["dropped/expired"] += self._dispatcher.expire(now)
            self._counts["relays/idle"] += self._forwarder.sweep(now)
            self._sockets.refresh()
            self._passed = 0
            if self._watched:
                notify(WATCHDOG="1")

    # Datagrams that arrive on a shared socket.

    def _receive(self, local: LocalSocket, datagram: bytes, peer: Address, mark: int) -> None:
        self._mark = mark
        recent = self._recent.get(local)
        target = (recent and recent.get(peer)) or self._forwarder.at(local, peer)
        if target is not None and datagram:
            self._pass(local, datagram, peer, target)
            return
        decision = self._dispatcher.receive(datagram, peer, time.monotonic())
        self._carry_out(decision, local, datagram, peer)

    def _look_anew(self, flow: ForwardedFlow, datagram: bytes, mark: int) -> bool:
        """Handle a datagram from the client's address of `flow`, unless it belongs to an existing connection."""
        decision = self._dispatcher.receive(datagram, flow.peer, time.monotonic())
        if isinstance(decision, Existing):
            return False
        self._mark = mark
        self._carry_out(decision, flow.local, datagram, flow.peer)
        return True

    def _carry_out(self, decision: Decision, local: LocalSocket, datagram: bytes, peer: Address) -> None:
        if isinstance(decision, Deliver):
            self._deliver(decision, local, peer)
        elif isinstance(decision, Reply):
            self._counts[f"answered/{decision.reason}"] += 1
            local.send(decision.datagram, peer)
            self._log_flow("answered", local, peer, answer=decision.reason, reason=decision.detail or None)
        elif isinstance(decision, Existing):
            self._follow(local, datagram, peer, decision.cid)
        elif isinstance(decision, Drop):
            self._counts[f"dropped/{decision.reason}"] += 1
        else:
            assert isinstance(decision, Buffered)  # noqa: S101 - for the type checker: there is nothing else

    def _drained(self, local: LocalSocket) -> None:
        # All datagrams that arrived before the flows' own sockets were connected have been read.
        self._recent.pop(local, None)

    def _pass(self, local: LocalSocket, datagram: bytes, peer: Address, target: Target) -> None:
        if isinstance(target, ForwardedFlow):
            self._forwarder.receive(target, datagram, mark=self._mark)
        elif self._passed < _MAX_PASSED_PER_SECOND:
            self._passed += 1
            self._applications.pass_on(target, wire.Datagram(show_address(peer), local.name, datagram))
        else:
            self._counts["dropped/rate"] += 1

    def _follow(self, local: LocalSocket, datagram: bytes, peer: Address, cid: bytes | None) -> None:
        """Handle a datagram of an existing connection from a new address, or one that arrived late."""
        table = self._connection_ids
        forwarded = table.flow_of_short_header(datagram) if cid is None else table.flow(cid)
        if forwarded is not None:
            path = self._forwarder.branch(forwarded, local, peer, source_of(peer), time.monotonic())
            if path is not None:
                self._counts["flows/moved"] += 1
                self._forwarder.from_client(path, datagram, mark=self._mark)
                return
        application = table.listener(datagram[1:] if cid is None else cid)
        if application is None:
            self._counts["dropped/unknown"] += 1
            return
        self._counts["datagrams/passed"] += 1
        self._moved[local, peer] = application
        self._pass(local, datagram, peer, application)

    def _remember(self, local: LocalSocket, peer: Address, target: Target) -> None:
        if isinstance(target, ForwardedFlow):
            return  # the forwarder knows the flows of each client
        self._recent.setdefault(local, BoundedDict(_MAX_RECENT))[peer] = target

    # New connections.

    def _queue(self, new: Deliver, local: LocalSocket, peer: Address) -> bool:
        """Queue `new` during the grace period if no application listens for it. Return whether it was queued."""
        if self._loop.time() >= self._grace_ends or self._applications.serves(new.registration.name):
            return False
        key = (peer, new.header.destination_cid)
        if key not in self._waiting and len(self._waiting) < _MAX_WAITING:
            self._waiting[key] = (new, local)
        return True

    def _deliver_waiting(self, name: str | None = None) -> None:
        """Deliver the queued connections of the registration `name`; None: all, at the end of the grace period."""
        if name is None:
            self._grace_ends = 0.0
        for key, (new, local) in list(self._waiting.items()):
            if name in (None, new.registration.name):
                del self._waiting[key]
                self._deliver(new, local, key[0])

    def _deliver(self, new: Deliver, local: LocalSocket, peer: Address) -> None:
        delivery = parse_delivery(new.registration.policy.deliver)
        if delivery.way is not Way.FORWARD and self._queue(new, local, peer):
            return
        if delivery.way is Way.FORWARD:
            target: Target | None = self._forward(new, local, peer, delivery)
        else:
            target = self._hand_over(new, local, peer, relayed=delivery.way is Way.RELAY)
        outcome = delivery.way.value
        if target is not None:
            self._remember(local, peer, target)
        elif self._applications.may_take(new.registration):
            outcome = "busy"  # not answered, as with a full listen queue: the client retransmits
        else:
            outcome = "refused"
            local.send(push_close(new.header, QuicError.CONNECTION_REFUSED, "no application is listening"), peer)
        self._counts[f"flows/{outcome}"] += 1
        self._log_flow(
            outcome,
            local,
            peer,
            registration=new.registration.name,
            server_name=new.server_name,
            alpn=show_alpn(new.alpn),
        )

    def _forward(self, new: Deliver, local: LocalSocket, peer: Address, delivery: Delivery) -> ForwardedFlow | None:
        host, port = delivery.host, delivery.port
        target: Address = (host, port, 0, 0) if ":" in host else (host, port)
        if any(port.is_at(target) for port in self._ports):
            return None  # a loop: it would arrive here again as a new connection
        proxy = new.registration.policy.proxy_protocol
        forwarded = self._forwarder.forward(local, peer, target, source_of(peer), time.monotonic(), proxy=proxy)
        if forwarded is None:
            return None
        forwarded.header = new.header
        forwarded.first_cid = new.header.destination_cid
        for datagram in new.datagrams:
            self._forwarder.from_client(forwarded, datagram, mark=self._mark)
        return forwarded

    def _hand_over(self, new: Deliver, local: LocalSocket, peer: Address, *, relayed: bool) -> Target | None:
        end = self._open_end(local, peer, relayed=relayed)
        if end is None:
            return None
        sock, forwarded = end
        if forwarded is not None:
            forwarded.first_cid = new.header.destination_cid
        flow = wire.Flow(
            peer=show_address(peer),
            local=local.name,
            datagrams=new.datagrams,
            registration=new.registration.name,
            server_name=new.server_name,
            alpn=new.alpn,
            original_cid=new.original_cid,
            relayed=forwarded is not None,
        )
        with sock:
            application = self._applications.deliver(new.registration, flow, sock)
        if forwarded is not None and application is not None:
            forwarded.threads = application.threads
        elif forwarded is not None:
            self._forwarder.close(forwarded)
        return application and (forwarded or application)

    def _open_end(
        self, local: LocalSocket, peer: Address, *, relayed: bool, established: bool = False
    ) -> tuple[socket.socket, ForwardedFlow | None] | None:
        """Open the socket that an application gets for `peer`; with one end of a socket pair, also return its flow."""
        shares_address = self._forwarder.at(local, peer) is not None  # its datagrams must not go to the application
        if not relayed and not shares_address and self._applications.held < self._settings.forwarder.connected:
            sock = local.open_flow(peer)
            if sock is not None:
                return sock, None
        pair = self._forwarder.pair(local, peer, source_of(peer), time.monotonic(), established=established)
        return None if pair is None else (pair[1], pair[0])

    def _open_path(self, application: Application, sequence: int, path: wire.Path) -> None:
        try:
            peer, address = parse_address(path.peer), parse_address(path.local)
        except ValueError as error:
            raise WireError(str(error), attribute="peer") from None
        local = next((found for port in self._ports if (found := port.local(address)) is not None), None)
        if local is None or self._moved.get((local, peer)) is not application:
            # The socket would receive the datagrams of another application's connection.
            raise WireError("no datagram from this peer was passed to you", status=Status.REFUSED, attribute="peer")
        end = self._open_end(local, peer, relayed=self._applications.must_relay(application), established=True)
        if end is None:
            raise WireError("cannot open a socket for this path", status=Status.NOT_FOUND, attribute="peer")
        sock, forwarded = end
        with sock:
            flow = wire.Flow(path.peer, path.local, relayed=forwarded is not None)
            if self._applications.hand_over(application, sequence, flow, sock):
                if forwarded is not None:
                    forwarded.threads = application.threads
                del self._moved[local, peer]
                self._counts["flows/moved"] += 1
                self._remember(local, peer, forwarded or application)

    def _unreachable(self, flow: ForwardedFlow) -> None:
        self._counts["flows/unreachable"] += 1
        header = flow.header
        if header is not None:
            flow.local.send(push_close(header, QuicError.CONNECTION_REFUSED, "server unreachable"), flow.peer)
        self._log_flow("unreachable", flow.local, flow.peer)

    def _log_flow(self, outcome: str, local: LocalSocket, peer: Address, **words: str | None) -> None:
        """Log what became of a flow, within the rate limit."""
        if not log.isEnabledFor(logging.INFO) or not self._log_limit.allows("the network"):
            return
        fields = {"flow": outcome, "local": local.name, "peer": show_address(peer), **words}
        log.info("%s", " ".join(f"{name}={_word(text)}" for name, text in fields.items() if text is not None))


def _word(text: str) -> str:
    text = printable(text, 400)
    return text if text and not any(mark in text for mark in ' "=') else '"' + text.replace('"', '\\"') + '"'
