"""Free ports for servers of tests and demonstrations."""

import errno
import random
import socket

from handshaked.wire.addresses import any_address

_PORTS = range(10_000, 32_768)
"""Below those that the kernel gives to sockets by itself (ip_local_port_range in ip(7))."""
_ATTEMPTS = 1000


def free_port() -> int:
    """Return a port that is free for UDP and TCP on all addresses.

    Nobody holds it until the caller binds it: it is chosen at random, where hardly anybody else looks for one.
    RuntimeError if there is none.
    """
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)  # noqa: S311 - not a secret
        if all(
            _is_free(family, kind, port)
            for family in (socket.AF_INET, socket.AF_INET6)
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        ):
            return port
    raise RuntimeError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")


def _is_free(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> bool:
    """Return whether nobody uses `port`; also if there are no addresses of `family`."""
    try:
        sock = socket.socket(family, kind)
    except OSError:
        return True
    with sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(any_address(family, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
