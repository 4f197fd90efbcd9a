"""Flood a UDP port of 127.0.0.1 with Initials from spoofed sources: ``PORT SECONDS RATE PULSE [NAME ALPN]``, as root.

The Initials carry ClientHellos that ask for NAME and ALPN. Without these, they are datagrams of 25 packets that do not
open.

Unless PULSE is 0, the flood pauses after PULSE seconds for as long, again and again.

Each comes from another address of the loopback network, and begins another connection. The receiver is not waited for:
what its queue has no room for is lost. Prints how many datagrams were sent, in how many seconds, and the processor time
that took.
"""

import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

from tests.quic.initials import client_hello, crypto, initial

_IP = struct.Struct("!BBHHHBBH")
_UDP = struct.Struct("!HHHH")
_TICK = 0.002
_MOST_AT_ONCE = 0.05
"""Seconds of the flood that are sent in one burst after the sender has had to wait for a processor."""
_PAYLOADS = 4096


def hellos(server_name: str, alpn: str) -> list[bytes]:
    """Return Initials with a ClientHello, each of another connection."""
    frame = crypto(0, client_hello(server_name, [alpn]))
    return [initial(frame, dcid=os.urandom(8)) for _ in range(_PAYLOADS)]


def forged() -> list[bytes]:
    """Return datagrams of as many small Initials of one connection as fit, of which none opens."""
    return [(b"\xc0\0\0\0\1\x08" + os.urandom(8) + b"\0\0\x40\x20" + bytes(32)) * 25 for _ in range(_PAYLOADS)]


def packets(port: int, payloads: list[bytes]) -> Iterator[bytes]:
    """Yield IPv4 packets without end: the kernel fills in identification and checksum; UDP needs none over IPv4."""
    target = socket.inet_aton("127.0.0.1")
    for number, content in enumerate(itertools.cycle(payloads)):
        size = _UDP.size + len(content)
        source = bytes([127, 1 + number % 250, number // 250 % 256, 1 + number // 64_000 % 250])
        header = _IP.pack(0x45, 0, _IP.size + 8 + size, 0, 0, 64, socket.IPPROTO_UDP, 0)
        yield header + source + target + _UDP.pack(1024 + number % 60_000, port, size, 0) + content


def flood(source: Iterator[bytes], seconds: float, rate: float, pulse: float) -> tuple[int, float]:
    """Send `rate` packets a second for `seconds`; return their number and the time that took."""
    pause = threading.Event()
    sent = 0
    started = now = time.monotonic()
    due = started
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        while now - started < seconds:
            due = max(due, now - _MOST_AT_ONCE)
            if pulse and (now - started) % (2 * pulse) > pulse:
                due = now
            for packet in itertools.islice(source, round((now - due) * rate)):
                sock.sendto(packet, ("127.0.0.1", 0))
                sent += 1
                due += 1 / rate
            pause.wait(_TICK)
            now = time.monotonic()
    return sent, time.monotonic() - started


def main() -> None:
    """Make the payloads, then flood."""
    port, seconds, rate, pulse, *names = sys.argv[1:]
    payloads = hellos(*names) if names else forged()
    print("underway", flush=True)
    used = time.process_time()
    sent, lasted = flood(packets(int(port), payloads), float(seconds), float(rate), float(pulse))
    print(sent, lasted, time.process_time() - used)


if __name__ == "__main__":
    main()
