"""Flood a UDP port of 127.0.0.1 with Initials from spoofed sources: ``PORT SECONDS RATE KIND``, as root.

KIND is ``hello`` for ClientHellos in one packet, or ``forged`` for datagrams of 25 packets that do not open.

Each comes from another address of the loopback network, and begins another connection. None is sent while the
receiver's queue is long, so that a busy machine gets what it can take. Prints how many packets were sent, in how many
seconds, and how many of these the queue dropped.
"""

import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.quic.initials import client_hello, crypto, initial

_UNCONNECTED = 7  # TCP_CLOSE in net/tcp_states.h
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_TICK = 0.005
_MOST_QUEUED = 64 * 1024


def hello() -> bytes:
    """Return an Initial with a ClientHello."""
    return initial(crypto(0, client_hello("flood.example", ["smb"])), dcid=os.urandom(8))


def forged() -> bytes:
    """Return a datagram of as many small Initials of one connection as fit, of which none opens."""
    return (b"\xc0\0\0\0\1\x08" + os.urandom(8) + b"\0\0\x40\x20" + bytes(32)) * 25


def packets(port: int, payload: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield IPv4 packets without end: the kernel fills in identification and checksum; UDP needs none over IPv4."""
    payloads = [payload() for _ in range(500)]
    target = socket.inet_aton("127.0.0.1")
    for number, content in enumerate(itertools.cycle(payloads)):
        source = bytes([127, 1 + number % 250, number // 250 % 256, 1 + number // 64_000 % 250])
        size = _UDP.size + len(content)
        header = _IP.pack(0x45, 0, _IP.size + size, 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
        yield header + _UDP.pack(1024 + number % 60_000, port, size, 0) + content


def queued_and_dropped(port: int, *, connected: bool) -> tuple[int, int]:
    """Return the bytes queued and the number of datagrams dropped at the connected or unconnected sockets of `port`."""
    queued = dropped = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port and (int(words[3], 16) != _UNCONNECTED) == connected:
            queued += int(words[4].rpartition(":")[2], 16)
            dropped += int(words[-1])
    return queued, dropped


def flood(port: int, seconds: float, rate: float, payload: Callable[[], bytes]) -> tuple[int, float, int]:
    """Send for `seconds`, at most `rate` packets a second; return their number, the time, and the number dropped."""
    pause = threading.Event()
    source = packets(port, payload)
    sent = 0
    _, before = queued_and_dropped(port, connected=False)
    started = now = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        while now - started < seconds:
            if queued_and_dropped(port, connected=False)[0] < _MOST_QUEUED:
                for packet in itertools.islice(source, round(rate * _TICK)):
                    sock.sendto(packet, ("127.0.0.1", 0))
                    sent += 1
            now += _TICK
            late = time.monotonic() - now
            now += max(0.0, late)  # what is late is not made up for
            pause.wait(max(0.0, -late))
    return sent, time.monotonic() - started, queued_and_dropped(port, connected=False)[1] - before


if __name__ == "__main__":
    print(
        *flood(
            int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), {"hello": hello, "forged": forged}[sys.argv[4]]
        )
    )
