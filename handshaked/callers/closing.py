"""Close what strangers have opened, although that can block: descriptors, and sockets with unread ones."""

import asyncio
import os
import socket
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from handshaked.callers.threads import Threads, in_thread
from handshaked.errors import RefusedError
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors

_RETRY_SECONDS = 0.2
_NO_LINGER = struct.pack("ii", 0, 0)

_MAX_UNREAD = 1024  # packets looked at here; closing discards any others in a thread
_ROOM = CONTROL_SPACE + socket.CMSG_SPACE(12)  # and struct ucred


def close_unread(sock: socket.socket, threads: Threads, then: Callable[[], object]) -> None:
    """Close `sock` and call `then`; in one of `threads` if descriptors are attached to packets not yet received."""
    with suppress(OSError):  # the peer has closed
        sock.shutdown(socket.SHUT_RD)  # no more packets can arrive
    # Every received packet then has ancillary data, even an empty one, which tells it from the end of the queue.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    for _ in range(_MAX_UNREAD):
        try:
            _, control, _, _ = sock.recvmsg(1, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # the peer left packets of ours unread; its own packets are still here
            continue
        except OSError:
            control = []
        descriptors = pull_descriptors(control)
        if descriptors:
            break
        if not control:
            sock.close()
            then()
            return

    def close() -> None:
        close_all(descriptors)
        sock.close()

    threads.run(close, then)


class Closer:
    """Closes descriptors of users in at most `total` threads, of which each user gets `per_user`. For one event loop.

    Root and the daemon's user do not count towards `total`.
    """

    def __init__(self, total: int = 32, per_user: int = 4) -> None:
        self._total = total
        self._per_user = per_user
        self._privileged = {0, os.geteuid()}
        self._running: Counter[int] = Counter()
        self._waiting: OrderedDict[int, deque[tuple[tuple[int, ...], asyncio.Future[None]]]] = OrderedDict()
        self._retry: asyncio.TimerHandle | None = None
        self.pending = 0
        """The number of descriptors that are not closed yet."""

    def close(self, uid: int, descriptors: tuple[int, ...]) -> asyncio.Future[None]:
        """Close `descriptors`, which `uid` has sent; the result is there when they are closed."""
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if descriptors:
            self.pending += len(descriptors)
            self._waiting.setdefault(uid, deque()).append((descriptors, closed))
            self._start()
        else:
            closed.set_result(None)
        return closed

    def _start(self) -> None:
        while (uid := self._next()) is not None:
            descriptors, closed = self._waiting[uid][0]
            try:
                done = in_thread(partial(close_without_linger, descriptors))
            except RefusedError:  # the system has no more threads
                if self._retry is None:
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._start_again)
                return
            self._waiting[uid].popleft()
            self._waiting.move_to_end(uid)
            if not self._waiting[uid]:
                del self._waiting[uid]
            self._running[uid] += 1
            done.add_done_callback(partial(self._ended, uid, len(descriptors), closed))

    def _next(self) -> int | None:
        """Return the user whose descriptors to close next, or None if nobody may have another thread."""
        others = sum(count for uid, count in self._running.items() if uid not in self._privileged)
        for uid in self._waiting:
            if self._running[uid] < self._per_user and (others < self._total or uid in self._privileged):
                return uid
        return None

    def _start_again(self) -> None:
        self._retry = None
        self._start()

    def _ended(self, uid: int, size: int, closed: asyncio.Future[None], _: asyncio.Future[None]) -> None:
        self.pending -= size
        self._running[uid] -= 1
        if not self._running[uid]:
            del self._running[uid]
        if not closed.done():
            closed.set_result(None)
        self._start()


def close_without_linger(descriptors: Iterable[int]) -> None:
    """Close `descriptors`, which nobody needs: sockets do not wait until their data is sent (SO_LINGER). May block."""
    for descriptor in descriptors:
        with suppress(OSError):  # not a socket, or one of an unknown kind
            sock = socket.socket(fileno=descriptor)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.detach()
        close_all((descriptor,))
