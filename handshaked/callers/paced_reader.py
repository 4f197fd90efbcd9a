"""Reads a caller's connection when it is the caller's turn, and no faster than the caller may send."""

import asyncio
import socket
from collections.abc import Callable, Iterator

from handshaked.callers.account import Account
from handshaked.callers.fair_queue import Turns


class Reading:
    """Has `packet` take in what comes on `sock`, in steps as ``Turns`` has them, until ``stop``.

    `turn_over` is told what ``Turns.take`` tells, and calls ``go_on`` or ``pause``.
    """

    def __init__(
        self,
        sock: socket.socket,
        account: Account,
        turns: Turns,
        packet: Callable[[], Iterator[int]],
        turn_over: Callable[[bool], None],
    ) -> None:
        self._sock = sock
        self._account = account
        self._turns = turns
        self._packet = packet
        self._turn_over = turn_over
        self._loop = asyncio.get_running_loop()
        self._reads = self._stopped = False
        self.go_on()

    def go_on(self) -> None:
        """Read on, once what was taken too fast is paid for."""
        if self._stopped:
            return
        debt = self._account.debt(self._loop.time())
        if debt > 0:
            self.pause()
            self._loop.call_later(debt, self.go_on)
        elif not self._reads:
            self._reads = True
            self._loop.add_reader(self._sock, self._readable)

    def pause(self) -> None:
        """Do not read until ``go_on``."""
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._sock)

    def stop(self) -> None:
        """Read no more: the socket is about to be closed."""
        self._stopped = True
        self.pause()

    def _readable(self) -> None:
        self._turns.take(self._account, self._packet(), self._turn_over)
