"""File descriptors attached to packets of Unix sockets (SCM_RIGHTS, unix(7)).

The kernel closes descriptors that do not fit into the receiver's control buffer, or whose packet is never received,
in the receiver's thread. Closing the last copy of a lingering socket (SO_LINGER) takes as long as its sender likes.
Sockets that strangers write to therefore refuse descriptors, where Linux can (6.16), and have room for all of them.
"""

import array
import os
import socket
from collections.abc import Iterable
from contextlib import suppress

_SO_PASSRIGHTS = 83
MAX_ATTACHED = 253
"""Most descriptors that the kernel lets a sender attach to one packet (SCM_MAX_FD)."""
CONTROL_SPACE = socket.CMSG_SPACE(MAX_ATTACHED * array.array("i").itemsize)
"""Size of a control buffer with room for all descriptors that the kernel lets a sender attach to one packet."""


def refuse_descriptors(sock: socket.socket) -> bool:
    """Let senders of descriptors to `sock`, and to connections accepted on it, fail with EPERM.

    Return whether the kernel can do so. Packets already received keep their descriptors.
    """
    with suppress(OSError):  # before Linux 6.16
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        return True
    return False


def push_descriptors(descriptors: Iterable[int]) -> list[tuple[int, int, "array.array[int]"]]:
    """Return the ancillary data that attaches copies of `descriptors`, none or more, to a packet (sendmsg)."""
    attached = array.array("i", descriptors)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, attached)] if attached else []


def pull_descriptors(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in the ancillary data `control`, which the receiver must close."""
    found = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    return found.tolist()


def close_all(descriptors: Iterable[int]) -> None:
    """Close `descriptors`, and ignore errors of their files."""
    for descriptor in descriptors:
        with suppress(OSError):  # the descriptor is closed nevertheless
            os.close(descriptor)
