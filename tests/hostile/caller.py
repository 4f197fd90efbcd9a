"""A process of an ordinary user beside the daemon: ``MODULE:FUNCTION DIRECTORY DESCRIPTOR``; see ``honest``."""

import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from handshaked.wire.json_packets import receive_message, send_message

PAUSE_SECONDS = 0.005
"""Between two operations: a caller that never rests measures its own share of the processor instead."""


def serve_measurements(channel: socket.socket, operation: Callable[[], object]) -> None:
    """Answer each request for ``seconds`` of operations with their latencies, until the harness closes `channel`."""
    pause = threading.Event()
    while (received := receive_message(channel)) is not None:
        latencies: list[float] = []
        end = time.monotonic() + received[0]["seconds"]
        while not latencies or time.monotonic() < end:
            started = time.monotonic()
            operation()
            latencies.append(round(time.monotonic() - started, 6))
            pause.wait(PAUSE_SECONDS)
        send_message(channel, {"latencies": latencies})


def main() -> None:
    """Run the function: it attacks, or returns the operation to measure."""
    name, directory, descriptor = sys.argv[1:]
    module, _, function = name.partition(":")
    channel = socket.socket(fileno=int(descriptor))
    operation = getattr(importlib.import_module(module), function)(
        Path(directory), lambda: send_message(channel, {"underway": True})
    )
    if operation is not None:
        send_message(channel, {"underway": True})
        serve_measurements(channel, operation)


if __name__ == "__main__":
    main()
