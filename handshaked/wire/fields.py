"""Values that several messages carry."""

from handshaked.errors import Alert, WireError
from handshaked.model import CipherSuite


def printable(text: str, limit: int = 1000) -> str:
    """Return `text` with unprintable characters escaped, cut to `limit` bytes: a peer may have chosen it."""
    escaped = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return escaped if 4 * len(escaped) <= limit else escaped.encode()[:limit].decode(errors="ignore")


def pull_cipher_suite(value: int) -> CipherSuite:
    """Return the cipher suite of a code point; WireError if TLS 1.3 has none."""
    try:
        return CipherSuite(value)
    except ValueError:
        raise WireError(f"{value:#06x} is not a TLS 1.3 cipher suite", attribute="cipher-suite") from None


def pull_alert(value: int | None) -> Alert | None:
    """Return the alert of a code point, None for None; WireError if there is no such alert."""
    try:
        return None if value is None else Alert(value)
    except ValueError:
        raise WireError(f"{value} is not an alert", attribute="alert") from None
