"""Wait until a socket can be read, without receiving: descriptors may be attached, which asyncio's functions lose."""

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


async def readable(sock: socket.socket, name: str) -> None:
    """Wait until `sock`, a connection to what the log calls `name`, can be read, or is closed by its peer."""
    ready = asyncio.Event()
    try:
        await _watch(sock, name, ready.set)
        await ready.wait()
    finally:
        asyncio.get_running_loop().remove_reader(sock)


async def _watch(sock: socket.socket, name: str, call: Callable[[], object]) -> None:
    """Call `call` when `sock` is readable, from now on, or from when the kernel has memory for that."""
    failing = False
    while True:
        try:
            asyncio.get_running_loop().add_reader(sock, call)
        except OSError as error:
            if not failing:
                log.error("a connection to %s cannot be read for now: %s", name, error)
            failing = True
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return
