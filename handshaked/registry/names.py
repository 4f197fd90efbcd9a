"""The canonical forms of server names and application protocols.

Server names are lower-case A-labels (RFC 5890); a leading ``*.`` stands for exactly one label. Application protocols
are bytes (RFC 7301), with an escaped text form: ``h3``, ``\\x00grease``.
"""

import re

from handshaked.errors import RefusedError
from handshaked.tls.x509.host_names import MAX_HOST_NAME, canonical_host_name, is_address

MAX_ALPN = 255
SELF_TEST_REGISTRATION = ".self-test"
"""The registration of the daemon's self-test. Its name and server name are reserved."""
SELF_TEST_SERVER_NAME = "self-test.handshaked.invalid"
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(\\)|())")


def canonical_server_name(name: str) -> str:
    """Return the canonical form of a server name to register; RefusedError if it is invalid."""
    wildcard, rest = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if "*" in rest:
        raise RefusedError(f"server name {name!r} is not a host name (a wildcard stands for the first label only)")
    canonical = wildcard + canonical_host_name(rest)
    if len(canonical) > MAX_HOST_NAME:
        raise RefusedError(f"server name {name[:64]!r}... is longer than {MAX_HOST_NAME} characters")
    if wildcard and canonical.count(".") < 2:
        raise RefusedError(f"server name {name!r}: a wildcard needs at least two labels after it")
    return canonical


def sni_of(name: str) -> str | None:
    """Return the SNI that a client of the server `name` sends: A-labels of an internationalised name, else `name`.

    None for an IP address (RFC 6066 section 3).
    """
    if is_address(name):
        return None
    return name if name.isascii() else canonical_server_name(name)


def lookup_names(server_name: str | None) -> tuple[str | None, ...]:
    """Return the registered names that match the SNI `server_name`, most specific first; None stands for any name."""
    if server_name is None:
        return (None,)
    name = server_name.lower().removesuffix(".")
    label, dot, parent = name.partition(".")
    if label in ("", "*"):  # no host name has these labels: neither may be taken for the wildcard's one label
        return (None,)
    return (name, f"*.{parent}", None) if dot else (name, None)


def parse_alpn(text: str) -> bytes:
    """Parse the text form of a protocol: UTF-8, with ``\\xNN`` for any byte and ``\\\\`` for a backslash."""
    if not _is_utf8(text):
        raise RefusedError(f"ALPN {text!r} is not UTF-8: write other bytes as \\xNN")
    out = bytearray()
    position = 0
    for match in _ESCAPE.finditer(text):
        out += text[position : match.start()].encode()
        if match[1]:
            out.append(int(match[1], 16))
        elif match[2]:
            out += b"\\"
        else:
            raise RefusedError(f"ALPN {text!r}: write a backslash as \\\\ and other bytes as \\xNN")
        position = match.end()
    out += text[position:].encode()
    return check_alpn(bytes(out))


def check_alpn(alpn: bytes) -> bytes:
    """Return `alpn` if it is a valid application protocol: 1 to 255 bytes (RFC 7301 section 3.1)."""
    if not 1 <= len(alpn) <= MAX_ALPN:
        raise RefusedError(f"an ALPN protocol of {len(alpn)} bytes: use 1 to {MAX_ALPN}")
    return alpn


def show_alpn(alpn: bytes) -> str:
    """Return the text form of `alpn`, which ``parse_alpn`` parses: printable ASCII, all else escaped."""
    return "".join("\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in alpn)


def _is_utf8(text: str) -> bool:
    """Return whether `text` has no lone surrogates, which stand for bytes that are not UTF-8 (PEP 383)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
