"""Send and receive the datagrams of QUIC: unfragmented, with their ECN marks, and in batches.

A batch is sent or received in one call (segmentation offload: UDP_SEGMENT and UDP_GRO, udp(7)). All its datagrams have
the segment size and the same mark; the last one may be shorter. Forwarding a batch costs as little as forwarding a few
datagrams. Linux 5.0 and newer; older kernels deliver each datagram alone.
"""

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

_UDP_SEGMENT, _UDP_GRO = 103, 104
_UINT16, _INT = struct.Struct("=H"), struct.Struct("=i")
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_ECN = 0x03  # the bits of the traffic class that are the ECN mark (RFC 3168 section 5)
ECN_CONTROL_SIZE = socket.CMSG_SPACE(4)
_CONTROL_SIZE = socket.CMSG_SPACE(4) + ECN_CONTROL_SIZE


def forbid_fragmentation(sock: socket.socket) -> None:
    """Let `sock` send no datagram in fragments: UDP datagrams of QUIC must not be (RFC 9000 section 14).

    One that is too long fails with EMSGSIZE, or is lost on its way, as a probe for the path's MTU must be.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


def receive_marks(sock: socket.socket) -> None:
    """Let `sock` receive the ECN mark of each datagram as ancillary data."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)


def pull_mark(control: Iterable[tuple[int, int, bytes]]) -> int:
    """Return the ECN mark in the ancillary data `control`; 0 (not ECN-capable) if there is none."""
    for level, kind, payload in control:
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
            return payload[0 if sys.byteorder == "little" else -1] & _ECN
    return 0


def set_mark(sock: socket.socket, mark: int) -> None:
    """Let `sock` send with the ECN mark `mark`."""
    sock.setsockopt(*_mark_option(sock), mark)


def push_mark(sock: socket.socket, mark: int) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that sends one datagram on `sock` with the ECN mark `mark`."""
    return [(*_mark_option(sock), _INT.pack(mark))] if mark else []


def _mark_option(sock: socket.socket) -> tuple[int, int]:
    if sock.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_TCLASS
    return socket.IPPROTO_IP, socket.IP_TOS


def enable_gro(sock: socket.socket) -> None:
    """Let the UDP socket `sock` receive batches, if the kernel can."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)


def receive(sock: socket.socket, buffers: list[memoryview]) -> tuple[int, int, int]:
    """Receive into `buffers`. Return the number of bytes, the segment size (0: a single datagram) and the ECN mark."""
    size, control, _, _ = sock.recvmsg_into(buffers, _CONTROL_SIZE)
    for level, kind, payload in control:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return size, _INT.unpack(payload)[0], pull_mark(control)
    return size, 0, pull_mark(control)


def send(sock: socket.socket, batch: bytes | memoryview, segment_size: int) -> None:
    """Send `batch` on a connected socket (`segment_size` 0: as one datagram). OSError as from send(2).

    Datagrams that are too long for the path are dropped.
    """
    if not segment_size:
        _send_one(sock, batch)
        return
    try:
        sock.sendmsg([batch], [(socket.IPPROTO_UDP, _UDP_SEGMENT, _UINT16.pack(segment_size))])
    except BlockingIOError:
        raise
    except OSError:  # too many or too long segments for the interface, or the pending error of an earlier datagram
        for datagram in split(batch, segment_size):
            _send_one(sock, datagram)


def _send_one(sock: socket.socket, datagram: bytes | memoryview) -> None:
    for _ in range(2):  # the first failure may be the pending error of an earlier datagram
        try:
            sock.send(datagram)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        else:
            return


def split(batch: bytes | memoryview, segment_size: int) -> Iterator[bytes | memoryview]:
    """Yield the datagrams of `batch`."""
    if not segment_size:
        yield batch
        return
    for start in range(0, len(batch), segment_size):
        yield batch[start : start + segment_size]
