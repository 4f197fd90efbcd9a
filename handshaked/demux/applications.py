"""The demultiplexer's Unix socket: applications listen for registrations and receive their connections.

Applications are identified by SO_PEERCRED. Whether one may have a registration's connections is checked each time a
connection is handed over. Nothing is queued for an application that does not read.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.account import Account, Accounts, Limits
from handshaked.callers.closing import Closer, close_unread
from handshaked.callers.fair_queue import FairQueue
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.paced_reader import PacedReader
from handshaked.callers.threads import Threads
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.errors import FramingError, Status, WireError
from handshaked.model import Caller
from handshaked.registry.delivery import Way, parse_delivery
from handshaked.registry.registration import Registration
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.attached import (
    CONTROL_SPACE,
    MAX_ATTACHED,
    close_all,
    pull_descriptors,
    push_descriptors,
    refuse_descriptors,
)
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
_SEND_BUFFER = 1024 * 1024  # of connections not yet received; net.core.wmem_max may allow less


@dataclass(frozen=True, slots=True)
class AcceptBounds:
    """Limits of the resources that applications use."""

    connections: ConnectionBounds = field(default=ConnectionBounds(total=4096, per_user=256, reserve=256))
    user: Limits = field(default=Limits(seconds_per_second=0.25))
    held_per_user: int = 2048
    """Sockets from before a restart that one user's applications may claim to hold. Without a limit, a user could
    claim so many that the connections of all users are relayed."""


class Application:
    """One connection of an application: its registrations, its route, and how many sockets it holds."""

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        account: Account,
        queue: FairQueue,
        packet: Callable[["Application"], Iterator[int]],
    ) -> None:
        self.socket = sock
        self.caller = caller
        self.status_sent = False
        """True after a status query of the current packet has been answered."""
        self._account = account
        self._then: Callable[[], object] = lambda: None
        self.reader = PacedReader(sock, account, queue, lambda: packet(self), self._after_turn)
        self.registrations: list[str] = []
        self.route: bytes | None = None
        self.held = 0
        self.attached: list[int] = []
        """Unexpected descriptors of the current packet. Closing them may block, so that only their sender waits."""
        self.closed = False

    @property
    def threads(self) -> Threads:
        """The threads of its user, for work that may block."""
        return self._account.threads

    def receive(self) -> tuple[bytes, int] | None:
        """Receive a packet, empty at the end, and its flags; None if there is none, or no room for descriptors."""
        if not self.reader.take_descriptors():
            return None
        try:
            packet, control, flags, _ = self.socket.recvmsg(MAX_PACKET, CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            self._account.release_descriptors(MAX_ATTACHED)
            return None
        except OSError:
            packet, control, flags = b"", [], 0
        self.attached = pull_descriptors(control)
        self._account.release_descriptors(MAX_ATTACHED - len(self.attached))
        return packet, flags

    def close(self, then: Callable[[], object]) -> None:
        """Stop reading, close the socket and the descriptors received on it, and call `then`."""
        self.closed = True
        self.reader.stop()
        self._then = then
        if not self.attached:
            close_unread(self.socket, self._account.threads, then)

    def _after_turn(self, finished: bool) -> None:
        if not finished:
            self.reader.pause()
        elif self.attached:
            self.reader.pause()
            self._account.threads.run(partial(close_all, self.attached), self._attached_closed)
        else:
            self.reader.resume()

    def _attached_closed(self) -> None:
        self._account.release_descriptors(len(self.attached))
        self.attached = []
        if self.closed:
            self.close(self._then)
        else:
            self.reader.resume()


@dataclass(frozen=True, slots=True)
class ApplicationEvents:
    """Callbacks for requests of applications."""

    open_path: Callable[[Application, int, Path], None]
    """Called with the application, the sequence number and the path: a connection has moved and needs a socket."""
    on_listen: Callable[[str], None]
    """Called with the name of a registration when an application starts to listen for it."""
    metrics: Callable[[], str]
    """Returns the metrics that answer a status query."""


class Applications:
    """Accepts applications on `listener` and hands connections over to them, by ``snapshot``."""

    def __init__(
        self,
        listener: socket.socket,
        connection_ids: ConnectionIds[Application, Any],
        bounds: AcceptBounds,
        events: ApplicationEvents,
        log_limit: LogLimit,
    ) -> None:
        self.snapshot = Snapshot()
        self._log_limit = log_limit
        self._connection_ids = connection_ids
        self._bounds = bounds
        self._events = events
        self._by_registration: dict[str, list[Application]] = {}
        self._all: set[Application] = set()
        closer = Closer()
        self._accounts = Accounts(bounds.user, closer.pool)
        self._queue = FairQueue()
        refuse_descriptors(listener)
        self._acceptor = Acceptor(
            listener, "the socket for applications", bounds.connections, log_limit, closer, self._take
        )

    def open(self) -> None:
        """Start accepting, after the first snapshot."""
        self._acceptor.start()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def held(self) -> int:
        """The number of sockets that applications hold."""
        return sum(application.held for application in self._all)

    def serves(self, name: str) -> bool:
        """Return whether an application listens for the registration `name`."""
        return name in self._by_registration

    def may_take(self, registration: Registration) -> bool:
        """Return whether an application, even a busy one, listens for `registration` and may use it."""
        return any(registration.allows(one.caller) for one in self._by_registration.get(registration.name, ()))

    def must_relay(self, application: Application) -> bool:
        """Return whether `application` must not get sockets of the port: one of its registrations says ``relay``."""
        found = map(self.snapshot.named, application.registrations)
        return any(one is not None and parse_delivery(one.policy.deliver).way is Way.RELAY for one in found)

    def deliver(self, registration: Registration, flow: Flow, sock: socket.socket) -> Application | None:
        """Hand `flow` over to the registration's next application, round-robin; None if none can receive it."""
        waiting = self._by_registration.get(registration.name, [])
        for _ in range(len(waiting)):
            application = waiting.pop(0)
            waiting.append(application)
            if registration.allows(application.caller) and self.hand_over(application, 0, flow, sock):
                return application
        return None

    def hand_over(self, application: Application, sequence: int, flow: Flow, sock: socket.socket) -> bool:
        """Send `flow` and its socket to `application`. Return whether it could be sent."""
        control = push_descriptors([sock.fileno()])
        try:
            application.socket.sendmsg([push_flow(sequence, flow)], control, socket.MSG_NOSIGNAL)
        except OSError:  # it does not read, or is gone: its own event reports that
            return False
        application.held += 1
        return True

    def pass_on(self, application: Application, datagram: Datagram) -> None:
        """Send `application` a datagram of one of its connections; dropped if the application does not read."""
        self._send(application, push_datagram(datagram))

    def refuse(self, application: Application, sequence: int, error: WireError) -> None:
        """Answer the request `sequence` of `application` with `error`."""
        self._send(application, push_error(sequence, error))

    def close(self) -> None:
        """Stop accepting and close all connections."""
        self._acceptor.stop()
        for application in list(self._all):
            self._close(application)

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        application = Application(sock, caller, self._accounts.open(caller), self._queue, self._packet)
        self._all.add(application)

    def _packet(self, application: Application) -> Iterator[int]:
        """Handle the next packet, message by message; the steps are those of the fair queue."""
        received = application.receive()
        if received is None:
            return
        packet, flags = received
        if not packet:
            self._close(application)
            return
        yield len(packet)
        application.status_sent = False
        try:
            if flags & socket.MSG_TRUNC:
                raise FramingError(f"packet longer than {MAX_PACKET} bytes", status=Status.TOO_LONG)
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
                log.warning("%s sent a malformed packet: %s", application.caller, error.reason)
            self._close(application)

    def _handle(self, application: Application, sequence: int, message: FromApplication) -> None:
        if isinstance(message, Listen):
            self._listen(application, sequence, message)
        elif isinstance(message, Release):
            application.held = max(0, application.held - message.count)
        elif isinstance(message, Path):
            if application.route is None:
                raise WireError("allowed only after LISTEN", status=Status.REFUSED, attribute="path")
            self._events.open_path(application, sequence, message)
        elif isinstance(message, StatusQuery):
            if application.status_sent:
                raise WireError("only one status query per packet is answered", status=Status.RATE_LIMITED)
            application.status_sent = True
            self._send(application, push_status(sequence, StatusAnswer(self._events.metrics())))
        else:
            raise message.error

    def _listen(self, application: Application, sequence: int, listen: Listen) -> None:
        registration = self.snapshot.named(listen.registration)
        if registration is None or not registration.allows(application.caller):
            raise WireError(
                f"no registration {listen.registration!r} that {application.caller} may use",
                status=Status.NOT_FOUND,
                attribute="registration",
            )
        if listen.registration not in application.registrations:
            if len(application.registrations) >= _MAX_REGISTRATIONS:
                raise WireError("too many on one connection", status=Status.RATE_LIMITED, attribute="registration")
            application.registrations.append(listen.registration)
            self._by_registration.setdefault(listen.registration, []).append(application)
            if self._log_limit.allows(application.caller):
                log.info("%s (pid %d) listens for %s", application.caller, application.caller.pid, listen.registration)
        if application.route is None:
            application.route = self._connection_ids.assign_route(application, application.caller.uid, listen.route)
        others = (one for one in self._all if one is not application)
        claimed = sum(one.held for one in others if one.caller.account == application.caller.account)
        application.held = max(application.held, min(listen.held, self._bounds.held_per_user - claimed))
        self._send(application, push_listening(sequence, Listening(listen.registration, application.route)))
        self._events.on_listen(listen.registration)

    def _send(self, application: Application, packet: bytes) -> None:
        try:
            application.socket.send(packet, socket.MSG_NOSIGNAL)
        except OSError as error:
            log.debug("%s does not read: %s", application.caller, error)

    def _close(self, application: Application) -> None:
        if application not in self._all:
            return
        self._all.discard(application)
        application.close(partial(self._closed, application.caller))
        if application.route is not None:
            self._connection_ids.release_route(application.route)
        for name in application.registrations:
            self._by_registration[name].remove(application)
            if not self._by_registration[name]:
                del self._by_registration[name]

    def _closed(self, caller: Caller) -> None:
        self._accounts.close(caller)
        self._acceptor.release(caller)
