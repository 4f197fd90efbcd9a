"""Attacks on Unix sockets: floods, and attached sockets whose closing blocks."""

import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from typing import NoReturn

from handshaked.wire.json_packets import MAX_MESSAGE
from tests.lingering import LINGER_SECONDS

_WAIT_MILLISECONDS = 100
_BUFFER = 4096


def flood(path: Path, packets: list[bytes], underway: Callable[[], None], connections: int = 64) -> NoReturn:
    """Send `packets` on many connections to `path`, on each the next one when the last was answered, without end."""
    poll = select.poll()
    sockets: dict[int, socket.socket] = {}
    following = cycle(packets)
    announced = False
    while True:
        with suppress(BlockingIOError):  # the accept queue is full
            while len(sockets) < connections:
                sock = connected(path)
                sockets[sock.fileno()] = sock
                poll.register(sock, select.POLLIN)
                _send(sock, next(following))
        if not announced:
            announced = True
            underway()
        for descriptor, _ in poll.poll(_WAIT_MILLISECONDS):
            if not _answered(sockets[descriptor]):
                poll.unregister(descriptor)
                sockets.pop(descriptor).close()
            else:
                _send(sockets[descriptor], next(following))


def send_lingering(path: Path, first: bytes, underway: Callable[[], None], most: int = 200) -> NoReturn:
    """Attach a lingering socket to the second packet of ever new connections, of which `first` is the first packet.

    Its peer never reads, and nobody else has a copy: whoever closes it waits for LINGER_SECONDS, or until `most` other
    connections were made.
    """
    made: deque[tuple[socket.socket, socket.socket]] = deque()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for number in count():
            sender, receiver = _lingering(listener)
            with suppress(BlockingIOError):
                sock = connected(path)
                made.append((sock, receiver))
                _send(sock, first)
                with suppress(OSError):  # the connection was closed meanwhile
                    socket.send_fds(sock, [b"second"], [sender.fileno()])
                if number % 2:
                    sock.close()
            threading.Thread(target=sender.close, daemon=True).start()  # if the daemon was faster, this one lingers
            if number == most // 4:
                underway()
            while len(made) > most:
                for one in made.popleft():
                    one.close()
    raise AssertionError


def _lingering(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return a TCP socket whose close() waits until its peer has read everything, and that peer."""
    sender = socket.socket()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    sender.connect(listener.getsockname())
    receiver, _ = listener.accept()
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 16))
    sender.setblocking(True)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    return sender, receiver


def connected(path: Path) -> socket.socket:
    """Return a non-blocking socket connected to `path`; BlockingIOError if the accept queue is full."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock


def _send(sock: socket.socket, packet: bytes) -> None:
    with suppress(OSError):  # the daemon does not read, or has closed the connection
        sock.send(packet, socket.MSG_NOSIGNAL)


def _answered(sock: socket.socket) -> bool:
    """Return whether the connection is still open after its answers were read."""
    try:
        return bool(sock.recv(MAX_MESSAGE))
    except OSError:
        return False
