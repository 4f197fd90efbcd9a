"""Work that may take any time, in threads of its own: the event loop of the parent waits for nobody.

Whoever serves a file (FUSE, or a server far away) may have open, fstat, read and close wait for as long as it likes,
and so may the peer of a socket that lingers.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from handshaked.errors import RefusedError
from handshaked.wire.json_packets import close_all

T = TypeVar("T")


def aside(work: Callable[[], T]) -> asyncio.Future[T]:
    """What `work` gives, or raises; it goes on when nobody waits for it any more. RefusedError: there is no thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(report: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and everything with it
            loop.call_soon_threadsafe(lambda: None if done.done() else report())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised again where it is waited for
            failure = error
            tell(lambda: done.set_exception(failure))
        else:
            tell(lambda: done.set_result(result))

    try:
        threading.Thread(target=run, name="aside", daemon=True).start()
    except RuntimeError as error:
        raise RefusedError(f"nothing more can be done at a time for now: {error}") from None
    return done


def close_aside(descriptors: tuple[int, ...]) -> asyncio.Future[None]:
    """Close `descriptors`, which others have opened."""
    if descriptors:
        with suppress(RefusedError):  # no thread: better late than never closed
            return aside(lambda: close_all(descriptors))
        close_all(descriptors)
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed.set_result(None)
    return closed
