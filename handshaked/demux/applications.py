"""The demultiplexer's Unix socket: applications say what they serve, and are handed their connections.

Who an application is, the kernel says (SO_PEERCRED); whether it may have a registration's connections, that
registration, each time one is handed over. Nothing is queued for an application that does not read.
"""

import array
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.account import Account, Accounts, Limits
from handshaked.callers.fair_queue import Turns
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.paced_reader import Reading
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.errors import FramingError, Status, WireError
from handshaked.model import Caller
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.demux import (
    MAX_PACKET,
    Datagram,
    Flow,
    FromApplication,
    Listen,
    Listening,
    Path,
    Release,
    StatusAnswer,
    StatusQuery,
    pull_from_application,
    push_datagram,
    push_flow,
    push_listening,
    push_status,
)
from handshaked.wire.netlink import push_error

log = logging.getLogger(__name__)

_MAX_REGISTRATIONS = 64
_BUFFER = 1024 * 1024  # connections that an application has not taken yet; the system may allow less


@dataclass(frozen=True, slots=True)
class AcceptBounds:
    """What applications may take."""

    connections: ConnectionBounds = field(default=ConnectionBounds(total=4096, of_one=256, reserve=256))
    user: Limits = field(default=Limits(seconds_per_second=0.25))
    held_per_user: int = 2048
    """Sockets that a user's applications may say they hold from before a restart: beyond a number of all of them,
    everybody's connections are relayed."""


class Application:
    """One connection of an application: what it serves, the route of its connection IDs, how many flows it holds."""

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        account: Account,
        turns: Turns,
        packet: Callable[["Application"], Iterator[int]],
    ) -> None:
        self.socket = sock
        self.caller = caller
        self.was_told = False
        """How the demultiplexer does, in answer to the packet at hand."""
        self.reading = Reading(sock, account, turns, lambda: packet(self), self._turn_over)
        self.registrations: list[str] = []
        self.route: bytes | None = None
        self.held = 0

    def _turn_over(self, finished: bool) -> None:
        if finished:
            self.reading.go_on()
        else:
            self.reading.pause()


@dataclass(frozen=True, slots=True)
class ApplicationEvents:
    """Who is told what applications want: sockets of connections that have moved; that a registration is served; how
    the demultiplexer does.
    """

    open_path: Callable[[Application, int, Path], None]
    on_served: Callable[[str], None]
    metrics: Callable[[], str]


class Applications:
    """Serves `listener`."""

    def __init__(
        self,
        listener: socket.socket,
        routes: ConnectionIds[Application, Any],
        bounds: AcceptBounds,
        events: ApplicationEvents,
        log_limit: LogLimit,
    ) -> None:
        self.snapshot = Snapshot()
        self._log_limit = log_limit
        self._routes = routes
        self._bounds = bounds
        self._events = events
        self._by_registration: dict[str, list[Application]] = {}
        self._all: set[Application] = set()
        self._accounts = Accounts(bounds.user)
        self._turns = Turns()
        self._acceptor = Acceptor(listener, "the socket for applications", bounds.connections, log_limit, self._take)

    def open(self) -> None:
        """Begin to accept; the snapshot is there."""
        self._acceptor.start()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def held(self) -> int:
        """Sockets that applications hold."""
        return sum(application.held for application in self._all)

    def serves(self, name: str) -> bool:
        """Whether an application is there for the registration `name`."""
        return name in self._by_registration

    def may_take(self, registration: Registration) -> bool:
        """Whether an application is there that may have the registration's connections, be it busy."""
        return any(registration.allows(one.caller) for one in self._by_registration.get(registration.name, ()))

    def relayed(self, application: Application) -> bool:
        """Whether `application` serves a registration whose sockets are not to be those of the port."""
        served = map(self.snapshot.named, application.registrations)
        return any(one is not None and parse_delivery(one.policy.deliver).way is Way.RELAY for one in served)

    def deliver(self, registration: Registration, flow: Flow, sock: socket.socket) -> Application | None:
        """Hand `flow` over to one of the registration's applications, in turn; None if none of them takes it."""
        waiting = self._by_registration.get(registration.name, [])
        for _ in range(len(waiting)):
            application = waiting.pop(0)
            waiting.append(application)
            if registration.allows(application.caller) and self.hand_over(application, 0, flow, sock):
                return application
        return None

    def hand_over(self, application: Application, sequence: int, flow: Flow, sock: socket.socket) -> bool:
        """Send `flow` with its socket to `application`; whether it was taken."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
        try:
            application.socket.sendmsg([push_flow(sequence, flow)], control, socket.MSG_NOSIGNAL)
        except OSError:  # it does not read, or is gone, which its own event tells
            return False
        application.held += 1
        return True

    def pass_on(self, application: Application, datagram: Datagram) -> None:
        """Give `application` a datagram of a connection that it has; lost if it does not read."""
        self._send(application, push_datagram(datagram))

    def refuse(self, application: Application, sequence: int, error: WireError) -> None:
        """Tell `application` that what it asked for is not to be had."""
        self._send(application, push_error(sequence, error))

    def close(self) -> None:
        """Close everything."""
        self._acceptor.stop()
        for application in list(self._all):
            self._close(application)

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        application = Application(sock, caller, self._accounts.open(caller), self._turns, self._packet)
        self._all.add(application)

    def _packet(self, application: Application) -> Iterator[int]:
        """Take in the next packet, message by message: steps for ``Turns``."""
        try:
            packet, _, flags, _ = application.socket.recvmsg(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet, flags = b"", 0
        if not packet:
            self._close(application)
            return
        yield len(packet)
        application.was_told = False
        try:
            if flags & socket.MSG_TRUNC:
                raise FramingError(f"a packet of more than {MAX_PACKET} bytes", status=Status.TOO_LONG)
            for sequence, message in pull_from_application(packet):
                try:
                    self._handle(application, sequence, message)
                except WireError as error:
                    self.refuse(application, sequence, error)
                yield 0
                if application not in self._all:
                    return
        except FramingError as error:
            if self._log_limit.allows(application.caller):
                log.warning("%s sent a packet that falls apart: %s", application.caller, error.reason)
            self._close(application)

    def _handle(self, application: Application, sequence: int, message: FromApplication) -> None:
        if isinstance(message, Listen):
            self._listen(application, sequence, message)
        elif isinstance(message, Release):
            application.held = max(0, application.held - message.count)
        elif isinstance(message, Path):
            if application.route is None:
                raise WireError("is for applications that listen", status=Status.REFUSED, attribute="path")
            self._events.open_path(application, sequence, message)
        elif isinstance(message, StatusQuery):
            if application.was_told:
                raise WireError("one in a packet is answered", status=Status.RATE_LIMITED)
            application.was_told = True
            self._send(application, push_status(sequence, StatusAnswer(self._events.metrics())))
        else:
            raise message.error

    def _listen(self, application: Application, sequence: int, listen: Listen) -> None:
        registration = self.snapshot.named(listen.registration)
        if registration is None or not registration.allows(application.caller):
            raise WireError(
                f"there is no registration {listen.registration!r} that {application.caller} may use",
                status=Status.NO_SUCH,
                attribute="registration",
            )
        if listen.registration not in application.registrations:
            if len(application.registrations) >= _MAX_REGISTRATIONS:
                raise WireError("too many for one connection", status=Status.RATE_LIMITED, attribute="registration")
            application.registrations.append(listen.registration)
            self._by_registration.setdefault(listen.registration, []).append(application)
            if self._log_limit.allows(application.caller):
                log.info("%s (pid %d) serves %s", application.caller, application.caller.pid, listen.registration)
        if application.route is None:
            application.route = self._routes.give(application, application.caller.uid, listen.route)
        claimed = sum(one.held for one in self._all if one.caller.uid == application.caller.uid) - application.held
        application.held = max(application.held, min(listen.held, self._bounds.held_per_user - claimed))
        self._send(application, push_listening(sequence, Listening(listen.registration, application.route)))
        self._events.on_served(listen.registration)

    def _send(self, application: Application, packet: bytes) -> None:
        try:
            application.socket.send(packet, socket.MSG_NOSIGNAL)
        except OSError as error:
            log.debug("%s does not read: %s", application.caller, error)

    def _close(self, application: Application) -> None:
        if application not in self._all:
            return
        self._all.discard(application)
        application.reading.stop()
        application.socket.close()
        self._accounts.close(application.caller)
        self._acceptor.release(application.caller)
        if application.route is not None:
            self._routes.take(application.route)
        for name in application.registrations:
            self._by_registration[name].remove(application)
            if not self._by_registration[name]:
                del self._by_registration[name]
