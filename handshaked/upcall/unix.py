"""The Unix door: userspace endpoints ask for handshakes on a SOCK_SEQPACKET socket.

One thread, one event loop. A connection is read a packet at a time; the messages of a packet are handled in order,
and what they give is sent back as one packet. All drivers of a connection end when it closes.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from handshaked.callers.identity import caller_of
from handshaked.datapath.relay import Relay
from handshaked.driver import Attempt, DataPath, Driver
from handshaked.errors import FramingError, HandshakeError, Status, WireError
from handshaked.events import CryptoData
from handshaked.model import Caller, Outcome, Request
from handshaked.quic_sockets import QuicSocketHandshakes
from handshaked.service import HandshakeService
from handshaked.upcall.descriptors import CONTROL_SPACE, Descriptors, open_on_socket
from handshaked.upcall.usage import Limits, Usage
from handshaked.wire.family import join_packets, pull_from_endpoint, push_done, push_lookup_answer
from handshaked.wire.messages import (
    MAX_PACKET,
    Cancel,
    FromEndpoint,
    Lookup,
    LookupAnswer,
    Malformed,
    Start,
    TransportParameters,
)
from handshaked.wire.netlink import push_ack, push_error

log = logging.getLogger(__name__)

_INPUT = memoryview(bytearray(MAX_PACKET))  # one thread reads, one packet at a time


class UnixDoor:
    """Accepts endpoints on `listener` and opens drivers at `service` for them, or at `quic_sockets` if it is given."""

    def __init__(
        self,
        listener: socket.socket,
        service: HandshakeService,
        limits: Limits,
        quic_sockets: QuicSocketHandshakes | None = None,
    ) -> None:
        self._quic_sockets = quic_sockets
        self._listener = listener
        self._service = service
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._usage: dict[int, Usage] = {}
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    @property
    def unsent_bytes(self) -> int:
        """How much of what was answered endpoints have not read yet."""
        return sum(connection.unsent_bytes for connection in self._connections)

    def stop_accepting(self) -> None:
        """Take no new connections; those there are go on."""
        self._loop.remove_reader(self._listener)

    def close(self) -> None:
        """End all handshakes with a DONE that says so, and close all connections."""
        self.stop_accepting()
        for connection in list(self._connections):
            connection.shut_down()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # another worker was faster
        except OSError as error:
            log.error("cannot accept a connection on the handshake socket: %s", error)
            self._pause_accepting()
            return
        caller = caller_of(sock)
        usage = self._usage.setdefault(caller.uid, Usage(self._limits, self._loop.time()))
        if usage.connections >= self._limits.connections:
            log.warning("%s has %d connections already; refused one more", caller, usage.connections)
            sock.close()
            return
        usage.connections += 1
        connection = _Connection(sock, caller, self._service, self._limits, usage, self._closed, self._quic_sockets)
        self._connections.add(connection)

    def _pause_accepting(self) -> None:
        # Out of descriptors: the listener stays readable, so wait instead of spinning.
        self._loop.remove_reader(self._listener)
        self._loop.call_later(0.2, self._loop.add_reader, self._listener, self._accept)

    def _closed(self, connection: "_Connection", caller: Caller) -> None:
        self._connections.discard(connection)
        self._usage[caller.uid].connections -= 1
        self._forget_usage(caller.uid)

    def _forget_usage(self, uid: int) -> None:
        """Let go of what `uid` has used when that is paid for: connecting anew is no way around the limits."""
        usage = self._usage.get(uid)
        if usage is None or usage.connections:
            return
        left = usage.seconds_to_full(self._loop.time())
        if left > 0:
            self._loop.call_later(left, self._forget_usage, uid)
        else:
            del self._usage[uid]


class _Connection:
    """One endpoint's connection and its handshakes, by sequence number."""

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        service: HandshakeService,
        limits: Limits,
        usage: Usage,
        on_close: Callable[["_Connection", Caller], None],
        quic_sockets: QuicSocketHandshakes | None,
    ) -> None:
        self._quic_sockets = quic_sockets
        self._sock = sock
        self._caller = caller
        self._service = service
        self._limits = limits
        self._usage = usage
        self._on_close = on_close
        self._drivers: dict[int, Attempt] = {}
        self._awaiting_tickets: dict[int, asyncio.TimerHandle] = {}
        self._output: list[bytes] = []
        self._unsent: list[bytes] = []
        self._flush_planned = False
        self._waits_to_write = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    @property
    def unsent_bytes(self) -> int:
        """How much of what was answered the endpoint has not read yet."""
        return sum(map(len, self._unsent))

    def shut_down(self) -> None:
        """End the handshakes, tell the endpoint, close."""
        self._abort_all(Status.SHUTTING_DOWN, "the daemon is shutting down")
        self._flush()
        self.close()

    def close(self) -> None:
        """Close the socket and end what is left."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._abort_all(Status.CANCELED, "the endpoint went away")
        for sequence in list(self._awaiting_tickets):
            self._stop_awaiting_tickets(sequence)
        self._sock.close()
        self._on_close(self, self._caller)

    def _abort_all(self, status: int, reason: str) -> None:
        for driver in list(self._drivers.values()):
            driver.abort(status, reason)

    def _read(self) -> None:
        debt = self._usage.debt(self._loop.time())
        if debt > 0:
            self._loop.remove_reader(self._sock)
            self._loop.call_later(debt, self._resume)
            return
        try:
            size, control, flags, _ = self._sock.recvmsg_into([_INPUT], CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            size, control, flags = 0, [], 0
        packet = bytes(_INPUT[:size])
        descriptors = Descriptors(control, flags)
        try:
            self._take(packet, flags, descriptors)
        finally:
            # This may take any time: whoever sent them waits, the others do not.
            if descriptors.let_go(self._resume) and not self._closed:
                self._loop.remove_reader(self._sock)

    def _take(self, packet: bytes, flags: int, descriptors: Descriptors) -> None:
        if not packet:
            self.close()
            return
        messages = 1
        self._flush_planned = True  # below
        framing: FramingError | None = None
        try:
            if flags & socket.MSG_TRUNC:
                raise FramingError(f"a packet of more than {MAX_PACKET} bytes", status=Status.TOO_LONG)
            for sequence, message, ack in pull_from_endpoint(packet):
                messages += 1
                self._handle(sequence, message, descriptors)
                if ack:
                    self._send(push_ack(sequence))
        except FramingError as error:
            framing = error
        self._usage.take(messages, len(packet), self._loop.time())
        if framing is None:
            self._flush()
        else:
            self._lose_framing(framing)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._read)

    def _lose_framing(self, error: FramingError) -> None:
        log.warning("%s (pid %d) sent a packet that falls apart: %s", self._caller, self._caller.pid, error.reason)
        self._abort_all(Status.INVALID, f"the endpoint's packet falls apart: {error.reason}")
        self._send(push_error(0, error))
        self._flush()
        self.close()

    def _handle(self, sequence: int, message: FromEndpoint, descriptors: Descriptors) -> None:
        driver = self._drivers.get(sequence)
        if isinstance(message, CryptoData | TransportParameters):
            # Without a driver its DONE is on the way, and the endpoint could not know.
            if isinstance(driver, Driver):
                if isinstance(message, CryptoData):
                    driver.receive(message.level, message.data)
                else:
                    driver.proceed(message.transport_parameters)
            elif driver is not None:
                self._refuse(sequence, WireError("is the socket's business, which the handshake runs on"))
        elif isinstance(message, Start):
            self._start(sequence, message, descriptors)
        elif isinstance(message, Cancel):
            if sequence in self._awaiting_tickets:
                self._stop_awaiting_tickets(sequence)
            elif driver is not None:
                driver.abort(Status.CANCELED, message.reason or "canceled by the endpoint")
        elif isinstance(message, Lookup):
            self._send(push_lookup_answer(sequence, self._look_up(message)))
        elif isinstance(message, Malformed):
            self._refuse(sequence, message.error)

    def _refuse(self, sequence: int, error: WireError) -> None:
        self._send(push_error(sequence, error))
        driver = self._drivers.get(sequence)
        if driver is not None:
            driver.abort(Status.INVALID, f"malformed message: {error.attribute or 'header'} {error.reason}")

    def _start(self, sequence: int, start: Start, descriptors: Descriptors) -> None:
        if sequence in self._awaiting_tickets:  # its handshake is over: the number is free
            self._stop_awaiting_tickets(sequence)
        if sequence in self._drivers:
            self._refuse(sequence, WireError("this sequence number has a handshake already", status=Status.EXISTS))
            return
        if self._usage.handshakes >= self._limits.handshakes:
            reason = f"{self._caller} has {self._usage.handshakes} handshakes in flight, the limit"
            self._send(push_done(sequence, Outcome(status=Status.RATE_LIMITED, reason=reason)))
            return
        self._usage.handshakes += 1
        if start.descriptors:
            self._start_on_socket(sequence, start, descriptors)
            return
        relay: DataPath = Relay(sequence, self._send, self._finished)
        driver = self._service.open(self._request(start), relay)
        self._drivers[sequence] = driver
        driver.start()

    def _start_on_socket(self, sequence: int, start: Start, descriptors: Descriptors) -> None:
        def report(outcome: Outcome) -> None:
            self._usage.handshakes -= 1
            self._drivers.pop(sequence, None)
            self._send(push_done(sequence, outcome))

        try:
            attempt = open_on_socket(self._quic_sockets, self._request(start), start, descriptors, report)
        except WireError as error:
            self._usage.handshakes -= 1
            self._refuse(sequence, error)
            return
        if not attempt.finished:
            self._drivers[sequence] = attempt

    def _request(self, start: Start) -> Request:
        timeout = start.timeout or self._limits.default_timeout
        return Request(
            role=start.role,
            caller=self._caller,
            timeout=min(timeout, self._limits.longest_timeout),
            auth_mode=start.auth_mode,
            alpns=start.alpns,
            server_name=start.server_name,
            transport_parameters=start.transport_parameters,
            registration=start.registration,
            credential=start.credential,
            cipher_suites=start.cipher_suites,
            trust_anchors=start.trust_anchors,
            session_ticket=start.session_ticket,
            early_data=start.early_data,
            ticket_seconds=float(start.ticket_seconds),
            peer_address=start.peer_address,
        )

    def _finished(self, sequence: int) -> None:
        self._usage.handshakes -= 1
        driver = self._drivers[sequence]
        if driver.takes_tickets and self._usage.awaiting_tickets < self._limits.handshakes:
            self._usage.awaiting_tickets += 1
            self._awaiting_tickets[sequence] = self._loop.call_later(
                driver.ticket_seconds, self._stop_awaiting_tickets, sequence
            )
        else:
            del self._drivers[sequence]

    def _stop_awaiting_tickets(self, sequence: int) -> None:
        self._awaiting_tickets.pop(sequence).cancel()
        self._usage.awaiting_tickets -= 1
        del self._drivers[sequence]

    def _look_up(self, lookup: Lookup) -> LookupAnswer:
        try:
            hello, selection = self._service.look_up(self._caller, lookup.client_hello, lookup.datagrams)
        except HandshakeError as error:
            return LookupAnswer(status=error.status, alert=error.alert, reason=error.reason)
        return LookupAnswer(
            status=Status.OK,
            registration=selection.registration.name,
            alpn=selection.alpn,
            server_name=hello.server_name,
        )

    def _send(self, message: bytes) -> None:
        self._output.append(message)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if self._output:
            self._unsent += join_packets(self._output)
            self._output.clear()
        self._write()

    def _write(self) -> None:
        if self._closed:
            return
        while self._unsent:
            try:
                self._sock.send(self._unsent[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if sum(map(len, self._unsent)) > self._limits.unsent_bytes:
                    log.warning("%s (pid %d) does not read its answers", self._caller, self._caller.pid)
                    self.close()
                elif not self._waits_to_write:
                    self._waits_to_write = True
                    self._loop.add_writer(self._sock, self._write)
                return
            except OSError:
                self.close()
                return
            del self._unsent[0]
        if self._waits_to_write:
            self._waits_to_write = False
            self._loop.remove_writer(self._sock)
