"""The identity of a Unix socket's peer."""

import logging
import socket
import struct

from handshaked.callers.log_limit import LogLimit
from handshaked.callers.owners import owner_of
from handshaked.model import Caller

log = logging.getLogger(__name__)

_PEER_CREDENTIALS = struct.Struct("=iII")
_SO_PEERGROUPS = 59
_MAX_GROUPS = 256  # the limit of getsockopt of Python's sockets


def caller_of(sock: socket.socket, log_limit: LogLimit) -> Caller:
    """Return the peer of the Unix socket `sock`, as attested by the kernel (SO_PEERCRED, SO_PEERGROUPS)."""
    pid, uid, gid = _PEER_CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    )
    reason = None
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS * 4)
    except OSError as error:
        reason, groups = error, b""
    gids = {gid, *(value for (value,) in struct.iter_unpack("=I", groups))}
    owner = owner_of(uid)
    caller = Caller(uid=uid, gids=frozenset(gids), pid=pid, owner=None if owner == uid else owner)
    if reason is not None and log_limit.allows(caller):
        log.warning("uid %d (pid %d): supplementary groups are ignored: %s", uid, pid, reason)
    return caller
