"""A worker's end of the socket pair to its parent: it receives commands, and sends answers and outcomes."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from handshaked.errors import is_temporary
from handshaked.reporting.counts import HandshakeCounts
from handshaked.system.readiness import Readiness
from handshaked.wire.attached import close_all
from handshaked.wire.json_packets import Message, receive_message, send_message

log = logging.getLogger(__name__)

_COUNTS_PER_MESSAGE = 256
_RECORDS_PER_MESSAGE = 16
_PAUSE_SECONDS = 0.1


class ParentChannel:
    """Calls `on_command` with each command received on `sock` and its file if it has one, `on_end` if the parent ends.

    The result of `on_command` is sent as the answer, with the command's number. Files are closed after the call.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_command: Callable[[str, int | None], Message | None],
        on_end: Callable[[], object],
    ) -> None:
        self._sock = sock
        self._on_command = on_command
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[Message] = deque()
        self._unsent_counts = HandshakeCounts()
        self._dropped = 0
        sock.setblocking(False)
        self._reading = Readiness(sock, "the parent", self._read)
        self._writing = Readiness(sock, "the parent", self._write, writing=True)
        self._reading.start()

    def send(self, message: Message) -> None:
        """Send `message`, in order, as soon as the socket accepts it."""
        self._unsent.append(message)
        self._write()

    def report(self, batch: Message) -> None:
        """Send a batch of outcomes. While the parent does not read, counts are added up and records are dropped."""
        self._unsent_counts.merge(batch["counts"])
        self._dropped += batch["left_out"]
        if self._unsent:
            self._dropped += len(batch["records"])
            return
        self._send_counts()
        records = batch["records"]
        for start in range(0, len(records), _RECORDS_PER_MESSAGE):
            self.send({"event": "outcomes", "records": records[start : start + _RECORDS_PER_MESSAGE]})

    def _send_counts(self) -> None:
        while self._unsent_counts.handshakes:
            dropped, self._dropped = self._dropped, 0
            counts = self._unsent_counts.take(_COUNTS_PER_MESSAGE)
            self.send({"event": "outcomes", "counts": counts, "left_out": dropped, "records": []})

    def _read(self) -> None:
        try:
            received = receive_message(self._sock)
        except OSError as error:
            if is_temporary(error):
                self._pause()
                return
            received = None
        if received is None:
            self._reading.stop()
            self._on_end()
            return
        message, descriptors = received
        try:
            answer = self._on_command(str(message.get("command")), next(iter(descriptors), None))
        finally:
            close_all(descriptors)
        if answer is not None:
            self.send({**answer, "number": message.get("number")})

    def _pause(self) -> None:
        """Read on a little later: while the kernel is short of memory, the event loop would spin."""
        self._reading.stop()
        self._loop.call_later(_PAUSE_SECONDS, self._reading.start)

    def _write_later(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self._writing.start()
        else:
            self._loop.call_later(_PAUSE_SECONDS, self._write)

    def _write(self) -> None:
        while self._unsent:
            try:
                send_message(self._sock, self._unsent[0])
            except OSError as error:
                if is_temporary(error):
                    self._write_later(error)
                    return
                log.debug("the parent has ended: %s", error)
                self._unsent.clear()
                self._on_end()
                return
            self._unsent.popleft()
        self._writing.stop()
        self._send_counts()
