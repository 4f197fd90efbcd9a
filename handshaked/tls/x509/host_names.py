"""Host names and IP addresses: one rule for registrations, for server_name (SNI), and for verifying a server.

Host names are lower-case A-labels (RFC 5890). Underscores are allowed, as in names of containers and of services.
"""

import ipaddress
import re

import idna

from handshaked.errors import RefusedError

MAX_HOST_NAME = 253

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def canonical_host_name(name: str) -> str:
    """Return the canonical form of a host name; RefusedError if it is none, which IP addresses are not either."""
    relative = name.removesuffix(".")
    if len(relative) > MAX_HOST_NAME:  # A-labels are no shorter
        raise RefusedError(f"server name {name[:64]!r}... is longer than {MAX_HOST_NAME} characters")
    try:
        ascii_name = relative.lower() if relative.isascii() else idna.encode(relative, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise RefusedError(f"server name {name!r} is not a valid internationalised name: {error}") from None
    if len(ascii_name) > MAX_HOST_NAME:
        raise RefusedError(f"server name {name[:64]!r}... is longer than {MAX_HOST_NAME} characters")
    if not all(_LABEL.fullmatch(label) for label in ascii_name.split(".")):
        raise RefusedError(f"server name {name!r} is not a host name")
    if is_address(ascii_name):
        raise RefusedError(f"server name {name!r} is an IP address; SNI carries host names only (RFC 6066 section 3)")
    return ascii_name


def is_host_name(text: str) -> bool:
    """Return whether `text` is a host name in ASCII, without a trailing dot."""
    try:
        return text.isascii() and not text.endswith(".") and bool(canonical_host_name(text))
    except RefusedError:
        return False


def ip_address(text: str) -> Address | None:
    """Return the address that `text` is, without the zone of a link (``%eth0``) and brackets, or None."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_address(text: str) -> bool:
    """Return whether `text` is an IP address, or a number, which resolvers take for one."""
    return ip_address(text) is not None or text.replace(".", "").isdecimal()


def covers(presented: str, wanted: str) -> bool:
    """Return whether a DNS name in a certificate is for the canonical host name, or registered wildcard, `wanted`.

    RFC 9525 section 6.3. As in browsers, a wildcard needs two labels after it: it may not cover a top-level domain.
    """
    presented = presented.lower()
    if presented == wanted:
        return "*" not in wanted or wanted.count(".") > 1
    _, _, parent = wanted.partition(".")
    return "." in parent and presented == f"*.{parent}"
