"""UDP segmentation offload: a batch of datagrams sent or received in one call (UDP_SEGMENT and UDP_GRO, udp(7)).

All datagrams of a batch have the segment size, except the last one, which may be shorter. Forwarding a batch costs as
little as forwarding a few datagrams. Linux 5.0 and newer; older kernels deliver each datagram alone.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

_UDP_SEGMENT, _UDP_GRO = 103, 104
_UINT16, _INT = struct.Struct("=H"), struct.Struct("=i")
_CONTROL_SIZE = socket.CMSG_SPACE(4)


def enable_gro(sock: socket.socket) -> None:
    """Let the UDP socket `sock` receive batches, if the kernel can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)


def receive(sock: socket.socket, buffers: list[memoryview]) -> tuple[int, int]:
    """Receive into `buffers`. Return the number of bytes and the segment size (0: a single datagram)."""
    size, control, _, _ = sock.recvmsg_into(buffers, _CONTROL_SIZE)
    for level, kind, payload in control:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return size, _INT.unpack(payload)[0]
    return size, 0


def send(sock: socket.socket, batch: bytes | memoryview, segment_size: int) -> None:
    """Send `batch` on a connected UDP socket (`segment_size` 0: as one datagram). OSError as from send(2)."""
    if not segment_size:
        sock.send(batch)
        return
    try:
        sock.sendmsg([batch], [(socket.IPPROTO_UDP, _UDP_SEGMENT, _UINT16.pack(segment_size))])
    except BlockingIOError:
        raise
    except OSError:  # too many or too long segments for the interface, or the pending error of an earlier datagram
        for datagram in split(batch, segment_size):
            sock.send(datagram)


def split(batch: bytes | memoryview, segment_size: int) -> Iterator[bytes | memoryview]:
    """Yield the datagrams of `batch`."""
    if not segment_size:
        yield batch
        return
    for start in range(0, len(batch), segment_size):
        yield batch[start : start + segment_size]
