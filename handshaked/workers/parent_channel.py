"""A worker's end of the socket pair that ties it to its parent: commands come in, answers and outcomes go out."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from handshaked.reporting.counts import HandshakeCounts
from handshaked.wire.json_packets import Message, receive_message, send_message

log = logging.getLogger(__name__)

_COUNTS_A_MESSAGE = 256
_RECORDS_A_MESSAGE = 16


class ParentChannel:
    """Hands each command that comes in on `sock` to `on_command`; calls `on_end` when the parent is gone."""

    def __init__(self, sock: socket.socket, on_command: Callable[[str], None], on_end: Callable[[], object]) -> None:
        self._sock = sock
        self._on_command = on_command
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[Message] = deque()
        self._held_back = HandshakeCounts()
        self._left_out = 0
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def tell(self, message: Message) -> None:
        """Send `message`, in order, as soon as there is room."""
        self._unsent.append(message)
        self._write()

    def report(self, batch: Message) -> None:
        """Send a batch of outcomes. While the parent does not read, counts add up and records are left out."""
        self._held_back.merge(batch["counts"])
        self._left_out += batch["left_out"]
        if self._unsent:
            self._left_out += len(batch["records"])
            return
        self._send_counts()
        records = batch["records"]
        for start in range(0, len(records), _RECORDS_A_MESSAGE):
            self.tell({"event": "outcomes", "records": records[start : start + _RECORDS_A_MESSAGE]})

    def _send_counts(self) -> None:
        while self._held_back.handshakes:
            left_out, self._left_out = self._left_out, 0
            counts = self._held_back.take(_COUNTS_A_MESSAGE)
            self.tell({"event": "outcomes", "counts": counts, "left_out": left_out, "records": []})

    def _read(self) -> None:
        try:
            received = receive_message(self._sock)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self._loop.remove_reader(self._sock)
            self._on_end()
            return
        self._on_command(str(received[0].get("command")))

    def _write(self) -> None:
        while self._unsent:
            try:
                send_message(self._sock, self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._write)
                return
            except OSError as error:
                log.debug("the parent is gone: %s", error)
                self._unsent.clear()
                self._on_end()
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)
        self._send_counts()
