"""TCP sockets whose close() waits for the peer (SO_LINGER); tests themselves must never wait in close()."""

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LINGER_SECONDS = 120
"""Longer than any test waits for the daemon, so that a daemon that waits in close() fails the test."""


def reset_on_close(sock: socket.socket) -> None:
    """Let close() reset the connection immediately, even with unsent data."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def lingering_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a sender whose last close() waits until the receiver has read everything, and that receiver.

    The end of the block closes open sockets without waiting: another process may hold the last copy of the sender.
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
        receiver.close()  # resets the connection, which ends the wait of other holders of the sender


def hand_over(sender: socket.socket, pid: int, send: Callable[[], object]) -> None:
    """Call `send`, which passes `sender` to the process `pid`, and close `sender` here before that process can.

    The process is stopped meanwhile, so that its copy is the last one and the lingering close() happens there.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        send()
        sender.close()
    finally:
        os.kill(pid, signal.SIGCONT)
