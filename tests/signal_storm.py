"""Send signals to a process again and again."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.patience import PATIENCE


@contextmanager
def signal_storm(pid: int, *numbers: signal.Signals) -> Iterator[None]:
    """Send the signals `numbers` to the process `pid` until the block ends, or the process."""
    process = os.pidfd_open(pid)
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.001):
            for number in numbers:
                try:
                    signal.pidfd_send_signal(process, number)
                except ProcessLookupError:
                    return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)
        os.close(process)
