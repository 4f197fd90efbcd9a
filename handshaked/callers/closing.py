"""Close what strangers have opened, although that can block: descriptors, and sockets with unread ones."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial

from handshaked.callers.threads import ThreadPool, Threads
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors

_MAX_UNREAD = 1024  # packets looked at here; closing discards any others in a thread
_ROOM = CONTROL_SPACE + socket.CMSG_SPACE(12)  # and struct ucred
_NO_LINGER = struct.pack("ii", 0, 0)


class Closer:
    """Closes descriptors and sockets in threads of `pool`, of which each user gets `per_user`. For one event loop.

    A user is a uid, or any other key that users cannot choose.
    """

    def __init__(self, pool: ThreadPool | None = None, per_user: int = 4) -> None:
        self.pool = pool or ThreadPool()
        self.pending = 0
        """The number of descriptors that are not closed yet."""
        self._per_user = per_user
        self._privileged = {0, os.geteuid()}
        self._threads: dict[Hashable, Threads] = {}

    def close(self, user: Hashable, descriptors: Iterable[int]) -> asyncio.Future[None]:
        """Close `descriptors`, which `user` has sent; the result is there when they are closed."""
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        descriptors = tuple(descriptors)

        def finish() -> None:
            self.pending -= len(descriptors)
            if not closed.done():
                closed.set_result(None)

        self.pending += len(descriptors)
        if descriptors:
            self._threads_of(user).run(partial(close_without_linger, descriptors), partial(self._end, user, finish))
        else:
            finish()
        return closed

    def close_socket(self, user: Hashable, sock: socket.socket, then: Callable[[], object] = lambda: None) -> None:
        """Close a Unix socket with ``close_unread``, and call `then`."""
        close_unread(sock, self._threads_of(user), partial(self._end, user, then))

    def _threads_of(self, user: Hashable) -> Threads:
        if user not in self._threads:
            self._threads[user] = Threads(self._per_user, self.pool, privileged=user in self._privileged)
        return self._threads[user]

    def _end(self, user: Hashable, then: Callable[[], object]) -> None:
        if self._threads_of(user).idle:
            del self._threads[user]
        then()


def close_unread(sock: socket.socket, threads: Threads, then: Callable[[], object]) -> None:
    """Close `sock` and call `then`; in one of `threads` if descriptors are attached to packets not yet received."""
    with suppress(OSError):  # the peer has closed
        sock.shutdown(socket.SHUT_RD)  # no more packets can arrive
    descriptors = _first_unread(sock)
    if descriptors is None:
        sock.close()
        then()
        return

    def close() -> None:
        close_without_linger(descriptors)
        sock.close()

    threads.run(close, then)


def _first_unread(sock: socket.socket) -> list[int] | None:
    """Return the first descriptors in the queue of `sock`, empty if there may be some; None if there are none."""
    try:
        # Every received packet then has ancillary data, even an empty one, which tells it from the end of the queue.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        for _ in range(_MAX_UNREAD):
            try:
                _, control, _, _ = sock.recvmsg(1, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # the peer left packets of ours unread; its own packets are still here
                continue
            descriptors = pull_descriptors(control)
            if descriptors:
                return descriptors
            if not control:
                return None
    except BlockingIOError:
        return None
    except OSError:  # the kernel is short of memory
        return []
    return []


def close_without_linger(descriptors: Iterable[int]) -> None:
    """Close `descriptors`, which nobody needs: sockets do not wait until their data is sent (SO_LINGER). May block."""
    for descriptor in descriptors:
        with suppress(OSError):  # not a socket, or one of an unknown kind
            sock = socket.socket(fileno=descriptor)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.detach()
        close_all((descriptor,))
