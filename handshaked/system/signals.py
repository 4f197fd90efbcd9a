"""Signals that make a process end or reload."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial


@contextmanager
def handled(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call `handlers` by their signals in the running event loop; afterwards ignore these signals.

    By default, each would kill the process: one that ends anyway, and gets another signal, exits with its own status.
    The event loop's own handlers are no help, because it restores that default when it removes them.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        # The handlers below run in the main thread, which sleeps on if the kernel interrupts another thread.
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        loop.add_reader(ours, partial(ours.recv, 4096))
        for number, handler in handlers.items():
            signal.signal(number, partial(_call_soon, loop, handler))
        try:
            yield
        finally:
            for number in handlers:
                signal.signal(number, signal.SIG_IGN)
            loop.remove_reader(ours)
            signal.set_wakeup_fd(before)


def _call_soon(loop: asyncio.AbstractEventLoop, handler: Callable[[], object], *_: object) -> None:
    loop.call_soon_threadsafe(handler)
