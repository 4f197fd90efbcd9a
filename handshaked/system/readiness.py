"""Watch sockets with the event loop, which fails while the kernel has no memory for that, or no room (epoll_ctl(2))."""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.2


def is_readable(sock: socket.socket) -> bool:
    """Return whether `sock`, which is non-blocking, can be read, or is closed by its peer."""
    try:
        sock.recv_into(bytearray(1), 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:  # reading it will say which
        return True
    return True


class Readiness:
    """Calls `call` while `sock`, a connection to what the log calls `name`, can be read, or written if `writing`.

    If the kernel cannot watch the socket now, that is tried again until it can. Stop before the socket is closed.
    """

    def __init__(
        self, sock: socket.socket | int, name: str, call: Callable[[], object], *, writing: bool = False
    ) -> None:
        self._sock = sock
        self._name = name
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._add = self._loop.add_writer if writing else self._loop.add_reader
        self._remove = self._loop.remove_writer if writing else self._loop.remove_reader
        self._retry: asyncio.TimerHandle | None = None
        self._failing = False
        self.watched = False
        """True if the socket is watched, or will be as soon as the kernel can."""

    def start(self) -> None:
        """Watch the socket from now on, unless it is watched already."""
        if not self.watched:
            self.watched = True
            self._try()

    def stop(self) -> None:
        """Watch the socket no more."""
        if not self.watched:
            return
        self.watched = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        else:
            self._remove(self._sock)

    def _try(self) -> None:
        self._retry = None
        try:
            self._add(self._sock, self._call)
        except OSError as error:
            if not self._failing:
                log.error("a connection to %s cannot be used for now: %s", self._name, error)
            self._failing = True
            self._retry = self._loop.call_later(_RETRY_SECONDS, self._try)
        else:
            self._failing = False


async def readable(sock: socket.socket, name: str) -> None:
    """Wait until `sock`, a connection to what the log calls `name`, can be read, or is closed by its peer.

    Nothing is received: descriptors may be attached, which asyncio's functions lose.
    """
    ready = asyncio.Event()
    reading = Readiness(sock, name, ready.set)
    reading.start()
    try:
        await ready.wait()
    finally:
        reading.stop()
