"""Reads a caller's connection through the fair queue, and no faster than the caller's rate limits allow."""

import asyncio
import socket
from collections.abc import Callable, Iterator

from handshaked.callers.account import Account
from handshaked.callers.fair_queue import FairQueue
from handshaked.system.readiness import Readiness
from handshaked.wire.attached import MAX_ATTACHED


class PacedReader:
    """Runs the steps of `read_packet` in `queue` whenever `sock` is readable, until ``stop``.

    `then` is called as by ``FairQueue.run``, and must call ``resume`` or ``pause``.
    """

    def __init__(
        self,
        sock: socket.socket,
        account: Account,
        queue: FairQueue,
        read_packet: Callable[[], Iterator[int]],
        then: Callable[[bool], None],
    ) -> None:
        self._account = account
        self._queue = queue
        self._read_packet = read_packet
        self._then = then
        self._loop = asyncio.get_running_loop()
        self._reading = Readiness(sock, "a caller", self._readable)
        self.stopped = self._lacks_room = False
        self.resume()

    def resume(self) -> None:
        """Continue to read, as soon as the rate limits allow."""
        if self.stopped or self._lacks_room:
            return
        debt = self._account.debt(self._loop.time())
        if debt > 0:
            self.pause()
            self._loop.call_later(debt, self.resume)
        else:
            self._reading.start()

    def take_descriptors(self) -> bool:
        """Take room for the descriptors of a packet; if there is none, do not read until there is."""
        if self._account.take_descriptors(MAX_ATTACHED, self._room_again):
            return True
        self._lacks_room = True
        self.pause()
        return False

    def _room_again(self) -> None:
        self._lacks_room = False
        self.resume()

    def pause(self) -> None:
        """Do not read until ``resume``."""
        self._reading.stop()

    def stop(self) -> None:
        """Stop reading: the socket is about to be closed."""
        self.stopped = True
        self.pause()

    def _readable(self) -> None:
        self._queue.run(self._account, self._read_packet(), self._then)
