"""One connection on the handshake socket.

It reads one packet at a time and handles its messages in order. Their answers are sent as one packet, unless the
caller's turn ends in between. All handshakes of a connection end when it closes.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator

from handshaked.callers.account import Account, Limits
from handshaked.callers.closing import close_unread
from handshaked.callers.fair_queue import FairQueue
from handshaked.callers.log_limit import LogLimit
from handshaked.callers.paced_reader import PacedReader
from handshaked.datapath.driver import Attempt, Driver
from handshaked.datapath.messages import MessagePath
from handshaked.errors import FramingError, HandshakeError, Status, WireError
from handshaked.events import CryptoData
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService, assemble
from handshaked.model import MAX_HANDSHAKE_MESSAGE, Caller, Outcome, Request
from handshaked.system.readiness import Readiness
from handshaked.upcall.descriptors import Descriptors, open_on_socket
from handshaked.wire.attached import CONTROL_SPACE, MAX_ATTACHED
from handshaked.wire.family import join_packets, pull_from_endpoint, push_done
from handshaked.wire.lookup import push_lookup_answer
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

_TRUNCATED = int(socket.MSG_TRUNC)  # a plain int: masking with an enum takes a microsecond
_INPUT = memoryview(bytearray(MAX_PACKET))  # shared: one thread reads, one packet at a time
_HANDSHAKE_BYTES = 16 * 1024  # that every handshake keeps, whatever its messages


class Endpoint:
    """One endpoint's connection and its handshakes, by sequence number.

    `released` is called when the connection and all descriptors received on it are closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        service: HandshakeService,
        limits: Limits,
        account: Account,
        queue: FairQueue,
        log_limit: LogLimit,
        released: Callable[[], None],
        quic_sockets: QuicSocketHandshakes | None,
    ) -> None:
        self._quic_sockets = quic_sockets
        self._sock = sock
        self._caller = caller
        self._service = service
        self._limits = limits
        self._account = account
        self._log_limit = log_limit
        self._released = released
        self._drivers: dict[int, Attempt] = {}
        self._kept_bytes: dict[int, int] = {}
        self._awaiting_tickets: dict[int, asyncio.TimerHandle] = {}
        self._output: list[bytes] = []
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._descriptors: Descriptors | None = None
        self._flush_planned = False
        self._writing = Readiness(sock, "an endpoint", self._write, writing=True)
        self._closed = self._socket_closed = False
        self._loop = asyncio.get_running_loop()
        self._reader = PacedReader(sock, account, queue, self._read_packet, self._after_turn)

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that the endpoint has not read yet."""
        return self._unsent_bytes

    def shut_down(self) -> None:
        """End the handshakes with DONE, and close."""
        self._abort_all(Status.SHUTTING_DOWN, "the daemon is shutting down")
        self._flush()
        self.close()

    def close(self) -> None:
        """Close the socket and end its handshakes."""
        if self._closed:
            return
        self._closed = True
        self._reader.stop()
        self._writing.stop()
        self._abort_all(Status.CANCELED, "the endpoint closed the connection")
        for sequence in list(self._awaiting_tickets):
            self._stop_awaiting_tickets(sequence)
        self._unsent.clear()
        self._count_unsent(-self._unsent_bytes)
        close_unread(self._sock, self._account.threads, self._end)

    def _end(self) -> None:
        self._socket_closed = True
        if self._descriptors is None:
            self._released()

    def _abort_all(self, status: int, reason: str) -> None:
        for driver in list(self._drivers.values()):
            driver.abort(status, reason)

    def _read_packet(self) -> Iterator[int]:
        """Read and handle the next packet: steps for ``FairQueue``, at least one for each message."""
        if self._reader.stopped:  # closed while waiting for its turn
            return
        if not self._reader.take_descriptors():
            return
        try:
            size, control, flags, _ = self._sock.recvmsg_into([_INPUT], CONTROL_SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            self._account.release_descriptors(MAX_ATTACHED)
            return
        except OSError:
            size, control, flags = 0, [], 0
        packet = bytes(_INPUT[:size])
        self._descriptors = descriptors = Descriptors(control, flags)
        self._account.release_descriptors(MAX_ATTACHED - descriptors.count)
        if not packet:
            self.close()
            return
        yield size
        try:
            if flags & _TRUNCATED:
                raise FramingError(f"longer than {MAX_PACKET} bytes", status=Status.TOO_LONG)
            for sequence, message, ack in pull_from_endpoint(packet):
                if self._closed:
                    return
                self._flush_planned = True  # after the turn
                if isinstance(message, Lookup):
                    yield from self._look_up(sequence, message)
                else:
                    self._handle(sequence, message, descriptors)
                if ack:
                    self._send(push_ack(sequence))
                yield 0
        except FramingError as error:
            self._lose_framing(error)

    def _after_turn(self, finished: bool) -> None:
        self._flush()
        if not finished:
            self._reader.pause()
        elif self._descriptors is None:
            self._reader.resume()
        elif self._descriptors.release(self._account.threads, self._descriptors_released):
            self._reader.pause()  # closing may block: only their sender waits
        else:
            self._descriptors_released()

    def _descriptors_released(self) -> None:
        if self._descriptors is not None:
            self._account.release_descriptors(self._descriptors.count)
        self._descriptors = None
        if self._socket_closed:
            self._released()
        elif not self._closed:
            self._reader.resume()

    def _lose_framing(self, error: FramingError) -> None:
        if self._log_limit.allows(self._caller):
            log.warning("%s (pid %d) sent a malformed packet: %s", self._caller, self._caller.pid, error.reason)
        self._abort_all(Status.INVALID, f"malformed packet: {error.reason}")
        self._send(push_error(0, error))
        self._flush()
        self.close()

    def _handle(self, sequence: int, message: FromEndpoint, descriptors: Descriptors) -> None:
        driver = self._drivers.get(sequence)
        if isinstance(message, CryptoData | TransportParameters):
            # Without a driver, DONE was sent, but the endpoint has not received it yet.
            if isinstance(driver, Driver):
                if isinstance(message, CryptoData):
                    if self._keep(sequence, len(message.data)):
                        driver.receive(message.level, message.data)
                    else:
                        driver.abort(Status.RATE_LIMITED, self._too_many_bytes())
                else:
                    driver.proceed(message.transport_parameters)
            elif driver is not None:
                self._refuse(
                    sequence,
                    WireError("not allowed: this handshake runs on a QUIC socket, which carries CRYPTO data itself"),
                )
        elif isinstance(message, Start):
            self._start(sequence, message, descriptors)
        elif isinstance(message, Cancel):
            if sequence in self._awaiting_tickets:
                self._stop_awaiting_tickets(sequence)
            elif driver is not None:
                driver.abort(Status.CANCELED, message.reason or "canceled by the endpoint")
        elif isinstance(message, Malformed):
            self._refuse(sequence, message.error)

    def _refuse(self, sequence: int, error: WireError) -> None:
        self._send(push_error(sequence, error))
        driver = self._drivers.get(sequence)
        if driver is not None:
            driver.abort(Status.INVALID, f"malformed message: {error.attribute or 'header'} {error.reason}")

    def _start(self, sequence: int, start: Start, descriptors: Descriptors) -> None:
        if sequence in self._awaiting_tickets:  # its handshake has ended: the number is free
            self._stop_awaiting_tickets(sequence)
        if sequence in self._drivers:
            self._refuse(sequence, WireError("this sequence number is in use by a handshake", status=Status.EXISTS))
            return
        refusal = self._admit(sequence, start)
        if refusal is not None:
            self._send(push_done(sequence, Outcome(status=Status.RATE_LIMITED, reason=refusal)))
            return
        if start.descriptors:
            self._start_on_socket(sequence, start, descriptors)
            return
        data_path = MessagePath(sequence, self._send, self._finished)
        driver = self._service.open(self._request(start), data_path)
        self._drivers[sequence] = driver
        driver.start()

    def _start_on_socket(self, sequence: int, start: Start, descriptors: Descriptors) -> None:
        def ended() -> None:
            self._account.handshakes.release()
            self._forget(sequence)

        def report(outcome: Outcome) -> None:
            ended()
            self._send(push_done(sequence, outcome))

        try:
            attempt = open_on_socket(self._quic_sockets, self._request(start), start, descriptors, report)
        except WireError as error:
            ended()
            self._refuse(sequence, error)
            return
        if not attempt.finished:
            self._drivers[sequence] = attempt

    def _admit(self, sequence: int, start: Start) -> str | None:
        """Count a handshake and the bytes that it keeps; return the reason if it is refused."""
        account = self._account
        if not account.handshakes.take():
            return f"{self._caller} has {account.handshakes.used} handshakes in flight, and may have no more now"
        received = MAX_HANDSHAKE_MESSAGE if start.socket else 0  # the socket's data is not counted when it arrives
        if not self._keep(sequence, _HANDSHAKE_BYTES + start.size + received):
            account.handshakes.release()
            return self._too_many_bytes()
        return None

    def _keep(self, sequence: int, size: int) -> bool:
        """Count `size` more bytes that a handshake keeps; return False if they are too many."""
        if not self._account.kept_bytes.take(size):
            return False
        self._kept_bytes[sequence] = self._kept_bytes.get(sequence, 0) + size
        return True

    def _too_many_bytes(self) -> str:
        kept = self._account.kept_bytes.used
        return f"the handshakes in flight of {self._caller} keep {kept} bytes, and may keep no more now"

    def _forget(self, sequence: int) -> None:
        """Drop a handshake that has ended."""
        self._drivers.pop(sequence, None)
        self._account.kept_bytes.release(self._kept_bytes.pop(sequence, 0))

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
        self._account.handshakes.release()
        driver = self._drivers[sequence]
        if (
            isinstance(driver, Driver)
            and driver.takes_tickets
            and self._account.awaiting_tickets < self._limits.handshakes
        ):
            self._account.awaiting_tickets += 1
            self._awaiting_tickets[sequence] = self._loop.call_later(
                driver.ticket_seconds, self._stop_awaiting_tickets, sequence
            )
        else:
            self._forget(sequence)

    def _stop_awaiting_tickets(self, sequence: int) -> None:
        self._awaiting_tickets.pop(sequence).cancel()
        self._account.awaiting_tickets -= 1
        self._forget(sequence)

    def _look_up(self, sequence: int, lookup: Lookup) -> Iterator[int]:
        """Answer `lookup`, in steps."""
        try:
            message = lookup.client_hello
            if message is None:
                message = yield from assemble(lookup.datagrams)
            hello, selection = self._service.look_up(self._caller, message)
        except HandshakeError as error:
            answer = LookupAnswer(
                status=error.status, alert=error.alert, reason=error.reason, quic_error=error.quic_error
            )
        else:
            answer = LookupAnswer(
                status=Status.OK,
                registration=selection.registration.name,
                alpn=selection.alpn,
                server_name=hello.server_name,
            )
        self._send(push_lookup_answer(sequence, answer))

    def _send(self, message: bytes) -> None:
        self._output.append(message)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if self._closed:
            self._output.clear()
        elif self._output:
            packets = join_packets(self._output)
            self._output.clear()
            self._unsent += packets
            self._count_unsent(sum(map(len, packets)))
        self._write()

    def _write(self) -> None:
        if self._closed:
            return
        while self._unsent:
            try:
                self._sock.send(self._unsent[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._wait_to_write()
                return
            except OSError:
                self.close()
                return
            self._count_unsent(-len(self._unsent.popleft()))
        self._writing.stop()

    def _wait_to_write(self) -> None:
        if self._account.unsent_bytes.exceeded:
            if self._log_limit.allows(self._caller):
                log.warning(
                    "%s (pid %d) does not read its messages, its connection is closed", self._caller, self._caller.pid
                )
            self.close()
        else:
            self._writing.start()

    def _count_unsent(self, size: int) -> None:
        self._unsent_bytes += size
        self._account.unsent_bytes.add(size)
