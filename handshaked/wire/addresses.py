"""Socket addresses: Python's tuples and their text form in messages."""

import ipaddress
import socket
from typing import Any

Address = tuple[Any, ...]
"""An address as from recvfrom(2): host and port, for IPv6 also flow information and scope."""


def show_address(address: Address) -> str:
    """Format `address` as ``192.0.2.1:443`` or ``[2001:db8::1%2]:443``; ``%`` and the scope only if link-local."""
    host = str(address[0]).partition("%")[0]
    if len(address) == 2:
        return f"{host}:{address[1]}"
    return f"[{host}%{address[3]}]:{address[1]}" if address[3] else f"[{host}]:{address[1]}"


def parse_address(text: str) -> Address:
    """Parse the output of ``show_address``; ValueError if `text` is malformed."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address with a port")
    if not host.startswith("["):
        return str(ipaddress.IPv4Address(host)), int(port)
    if not host.endswith("]"):
        raise ValueError(f"{text!r} is not an address with a port")
    bare, _, scope = host[1:-1].partition("%")
    return str(ipaddress.IPv6Address(bare)), int(port), 0, int(scope or "0")


def family_of(address: Address) -> socket.AddressFamily:
    """Return AF_INET or AF_INET6."""
    return socket.AF_INET if len(address) == 2 else socket.AF_INET6


def any_address(family: int, port: int = 0) -> Address:
    """Return the wildcard address of `family`."""
    return ("::", port, 0, 0) if family == socket.AF_INET6 else ("0.0.0.0", port)  # noqa: S104 - not bound here


def is_any(address: Address) -> bool:
    """Return whether `address` is the wildcard address of its family."""
    return bool(address[0] == any_address(family_of(address))[0])


def source_of(address: Address) -> str:
    """Return the key of per-source limits: an IPv4 address, or the /64 of an IPv6 address."""
    host = str(address[0])
    if len(address) == 2:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
