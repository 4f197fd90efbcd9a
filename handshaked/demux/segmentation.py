"""Trains: datagrams of one size, the last may be shorter, that the kernel takes and gives in one call (udp(7)).

A server that sends trains (UDP_SEGMENT) is relayed at the cost of a few datagrams; so is what a network card has put
together (UDP_GRO). Linux 5.0 and newer; elsewhere each datagram comes alone.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

_UDP_SEGMENT, _UDP_GRO = 103, 104
_SIZE, _GIVEN = struct.Struct("=H"), struct.Struct("=i")
_CONTROL = socket.CMSG_SPACE(4)


def enable_gro(sock: socket.socket) -> None:
    """Have the UDP socket `sock` give trains where it can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)


def receive(sock: socket.socket, buffers: list[memoryview]) -> tuple[int, int]:
    """Receive into `buffers`: how many bytes, and of how many each datagram is (0: it is one)."""
    size, control, _, _ = sock.recvmsg_into(buffers, _CONTROL)
    for level, kind, payload in control:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return size, _GIVEN.unpack(payload)[0]
    return size, 0


def send(sock: socket.socket, train: bytes | memoryview, each: int) -> None:
    """Send `train` on a connected UDP socket; OSError as send(2) has it."""
    if not each:
        sock.send(train)
        return
    try:
        sock.sendmsg([train], [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(each))])
    except BlockingIOError:
        raise
    except OSError:  # more, or longer ones, than the way out takes at once; or word of an earlier datagram
        for datagram in split(train, each):
            sock.send(datagram)


def split(train: bytes | memoryview, each: int) -> Iterator[bytes | memoryview]:
    """The datagrams of `train`."""
    if not each:
        yield train
        return
    for start in range(0, len(train), each):
        yield train[start : start + each]
