"""Close a Unix socket of a stranger, although unread packets may hold descriptors whose closing blocks."""

import socket
from collections.abc import Callable
from contextlib import suppress

from handshaked.callers.threads import Threads
from handshaked.wire.attached import CONTROL_SPACE, close_all, pull_descriptors

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
