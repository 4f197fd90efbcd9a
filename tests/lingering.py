"""TCP sockets whose close() waits for the peer (SO_LINGER), which no test may do itself."""

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LINGER_SECONDS = 120
"""Longer than any test waits for the daemon, so that a daemon that waits in close() fails the test."""


def reset_on_close(sock: socket.socket) -> None:
    """Have close() reset the connection at once, whatever is unsent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def lingering_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a sender whose last close() waits until the receiver has read everything, and that receiver.

    Leaving the block closes what is still open without waiting: by then a copy of the sender may be the last one.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname(), 30)
        receiver, _ = listener.accept()
    try:
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        sender.setblocking(True)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
        receiver.settimeout(30)
        yield sender, receiver
    finally:
        if sender.fileno() >= 0:
            reset_on_close(sender)
        sender.close()
        receiver.close()  # resets the connection, which frees whoever else has a copy of the sender


def hand_over(sender: socket.socket, pid: int, send: Callable[[], object]) -> None:
    """Call `send`, which passes `sender` to the process `pid`, and close `sender` here before that process can.

    The process is stopped meanwhile: its copy is the last one, so that the lingering close() is its own.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        send()
        sender.close()
    finally:
        os.kill(pid, signal.SIGCONT)
