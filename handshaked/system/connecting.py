"""Connections of clients to a daemon's Unix socket.

Clients send descriptors, keys and requests there, so they check who listens before they send anything. The rules are
those of ``netlink/connection.c``.
"""

import errno
import os
import socket
import stat
import struct
from pathlib import Path

_PEER_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid
_TIMEOUT = struct.pack("@ll", 1, 0)  # for SO_SNDTIMEO: how long connect() waits for a full accept queue
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def connect(sock: socket.socket, path: Path | str) -> None:
    """Connect the Unix socket `sock` to `path`.

    A blocking socket waits for an overloaded daemon for a second, then TimeoutError; others raise BlockingIOError at
    once. PermissionError if the process that listens runs neither as root, nor as this user, nor as the owner of the
    socket's directory, who counts if nobody else can write to it: /run/handshaked belongs to the daemon's user. Another
    OSError if `path` is empty or an abstract name, which any user can bind, or if nobody listens there.
    """
    name = os.fspath(path)
    if not name or "\0" in name:
        raise OSError(errno.EINVAL, "the path of the daemon's socket is empty or contains a NUL character")
    if sock.gettimeout() is None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
    try:
        sock.connect(name)
    except BlockingIOError:
        if sock.gettimeout() is None:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        raise
    _, user, _ = _PEER_CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    )
    if user in (0, os.geteuid()):
        return
    directory = os.stat(os.path.dirname(name) or ".")
    if directory.st_uid != user or directory.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(errno.EPERM, "neither root, this user nor the daemon's user listens there")
