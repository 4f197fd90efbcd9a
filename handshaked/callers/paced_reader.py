"""Reads a caller's connection through the fair queue, and no faster than the caller's rate limits allow."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator

from handshaked.callers.account import Account
from handshaked.callers.fair_queue import FairQueue
from handshaked.wire.attached import MAX_ATTACHED

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.2


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
        self._sock = sock
        self._account = account
        self._queue = queue
        self._read_packet = read_packet
        self._then = then
        self._loop = asyncio.get_running_loop()
        self.stopped = self._reads = self._lacks_room = self._failing = False
        self.resume()

    def resume(self) -> None:
        """Continue to read, as soon as the rate limits allow."""
        if self.stopped or self._lacks_room:
            return
        debt = self._account.debt(self._loop.time())
        if debt > 0:
            self.pause()
            self._loop.call_later(debt, self.resume)
        elif not self._reads:
            self._watch()

    def _watch(self) -> None:
        try:
            self._loop.add_reader(self._sock, self._readable)
        except OSError as error:  # the kernel is short of memory, or the user of epoll(7) watches
            if not self._failing:
                log.error("a connection cannot be read for now: %s", error)
            self._failing = True
            self._loop.call_later(_RETRY_SECONDS, self.resume)
        else:
            self._reads = True
            self._failing = False

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
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._sock)

    def stop(self) -> None:
        """Stop reading: the socket is about to be closed."""
        self.stopped = True
        self.pause()

    def _readable(self) -> None:
        self._queue.run(self._account, self._read_packet(), self._then)
