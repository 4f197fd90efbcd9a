"""The sockets of the kernel's generic netlink family ``handshake``.

Commands and events have separate sockets, so that a flood of READY messages cannot displace an answer.

A service without access to the host's network gets the sockets for the host's network namespace from systemd, which
opens them there. They outlive workers, but are of use to one at a time: answers to another's commands would arrive.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from handshaked.errors import Status
from handshaked.system.capabilities import Capability, explain

NETLINK_GENERIC = 16
NOTIFY_GROUP = 16
"""The controller's multicast group, which announces new and removed families."""
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP, _NETLINK_DROP_MEMBERSHIP, _NETLINK_LIST_MEMBERSHIPS = 1, 2, 9
_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")

_MEMBERSHIPS = struct.Struct("=32I")  # one bit for each of 1024 groups; families have a few, all together some dozens

Pair = tuple[socket.socket, socket.socket]
"""A socket for commands and one for events."""


class NetlinkLink:
    """The sockets to the kernel in the network namespace `namespace`, by default the daemon's own.

    For the latter, duplicates of the sockets `passed` are used if there are any.
    """

    def __init__(self, namespace: str | None = None, passed: Pair | None = None) -> None:
        self._file = None if namespace is None else _NAMESPACES / namespace
        self._inode = self._current_inode()
        if namespace is None and passed is not None:
            self.commands, self.events = map(_renewed, passed)
        else:
            with _inside(self._file):
                self.commands, self.events = _netlink_socket(), _netlink_socket()
        self.join(NOTIFY_GROUP)

    @property
    def stale(self) -> bool:
        """True if the network namespace was deleted or replaced: close these sockets, which keep it alive."""
        try:
            return self._current_inode() != self._inode
        except OSError:
            return True

    def _current_inode(self) -> tuple[int, int] | None:
        """Return the device and inode of the namespace with that name."""
        if self._file is None:
            return None
        status = self._file.stat()
        return status.st_dev, status.st_ino

    def join(self, group: int) -> None:
        """Subscribe to a multicast group."""
        self.events.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """Close both sockets."""
        self.commands.close()
        self.events.close()


def pairs_of(passed: Sequence[socket.socket]) -> list[Pair]:
    """Return the netlink sockets among those that systemd has `passed`, in pairs: one for each worker."""
    found = [sock for sock in passed if sock.family == socket.AF_NETLINK]
    return list(zip(found[::2], found[1::2], strict=False))


def is_isolated() -> bool:
    """Return whether the network namespace of this process has no interface but ``lo``: nothing there sends upcalls."""
    lines = Path("/proc/thread-self/net/dev").read_text(errors="replace").splitlines()
    return {line.partition(":")[0].strip() for line in lines if ":" in line} <= {"lo"}


def _netlink_socket() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        advice = f"{error.strerror}; add RestrictAddressFamilies=AF_NETLINK to the unit"
        raise OSError(error.errno, advice) from None
    sock.bind((0, 0))
    return _connected(sock)


def _renewed(passed: socket.socket) -> socket.socket:
    """Return a duplicate of a socket that an earlier worker may have used, without its groups and messages."""
    sock = passed.dup()
    sock.setblocking(False)
    for group in _groups(sock):
        sock.setsockopt(_SOL_NETLINK, _NETLINK_DROP_MEMBERSHIP, group)
    while True:
        try:
            sock.recv(1)
        except BlockingIOError:
            return _connected(sock)
        except OSError as error:
            if error.errno != Status.NO_BUFFERS:  # messages have been lost: those that are left follow
                raise


def _groups(sock: socket.socket) -> Iterator[int]:
    """Yield the multicast groups that `sock` has joined."""
    found = sock.getsockopt(_SOL_NETLINK, _NETLINK_LIST_MEMBERSHIPS, _MEMBERSHIPS.size)
    for word, bits in enumerate(_MEMBERSHIPS.unpack(found.ljust(_MEMBERSHIPS.size, b"\0")[: _MEMBERSHIPS.size])):
        yield from (32 * word + bit + 1 for bit in range(32) if bits >> bit & 1)


def _connected(sock: socket.socket) -> socket.socket:
    sock.connect((0, 0))  # to the kernel: messages from other processes are refused
    return sock


@contextmanager
def _inside(namespace: Path | None) -> Iterator[None]:
    """Open sockets in the network namespace of the file `namespace` (ip-netns(8)); OSError if it does not exist."""
    if namespace is None:
        yield
        return
    with Path("/proc/thread-self/ns/net").open("rb") as before, namespace.open("rb") as wanted:
        _enter(wanted.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno() or Status.FAILED
        error = OSError(number, os.strerror(number))
        raise OSError(number, f"cannot enter a network namespace: {explain(error, Capability.SYS_ADMIN)}")
