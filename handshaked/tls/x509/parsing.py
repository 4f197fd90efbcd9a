"""Translate errors and warnings of `cryptography` about input into this package's errors, in one place."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from handshaked.errors import Alert, PeerError, UnreadableError
from handshaked.tls.x509 import der

# The library accepts some invalid input with a warning, such as serial number 0, which eight roots of Debian 13 have.
# Drop these warnings: peers and authors of files must not be able to fill the log. The filter is set once, for calls
# from this package: threads share the filters, so warnings.catch_warnings is not safe here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"handshaked\.")

_MAX_SHOWN = 80
_MAX_REASON = 200

MAX_NAME = 4096
"""Longest issuer or subject of a certificate, in bytes of DER."""

MALFORMED = (
    ValueError,
    TypeError,
    KeyError,  # of numbers that have no name, such as a TLS feature
    OverflowError,
    InternalError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""Errors that `cryptography` raises on input that is malformed, or that it does not support.

Much of a certificate or list is parsed at the first look at it only, so that looking has to be guarded too.
"""


_UNSUPPORTED = (UnsupportedAlgorithm, x509.UnsupportedGeneralNameType)

_ENCODED_DEFAULT = "EncodedDefault"
"""The library's words about a field that has its default value and should be left out: BER, but not DER."""

_PANIC = "PanicException"
"""The class of a panic of the library's Rust code: a BaseException, which cannot be imported."""


@contextmanager
def readable(thing: str) -> Iterator[None]:
    """Translate into UnreadableError what is raised about `thing`: a file, or one entry of it, with its position."""
    try:
        yield
    except BaseException as error:  # a panic is one; all others are raised again
        if not _is_about_input(error):
            raise
        raise UnreadableError(f"{thing}: {reason_of(error)}") from None


@contextmanager
def well_formed() -> Iterator[None]:
    """Translate into PeerError what is raised about a peer's certificates.

    The alert is bad_certificate for malformed ones, unsupported_certificate for what only this package does not take.
    """
    try:
        yield
    except BaseException as error:  # a panic is one; all others are raised again
        if not _is_about_input(error):
            raise
        if isinstance(error, _UNSUPPORTED) or _ENCODED_DEFAULT in str(error):
            raise PeerError(Alert.UNSUPPORTED_CERTIFICATE, f"unsupported certificate: {reason_of(error)}") from None
        raise PeerError(Alert.BAD_CERTIFICATE, f"malformed certificate: {shown(str(error))}") from None


def parse_certificate(encoded: bytes) -> x509.Certificate:
    """Parse one certificate in DER; raises one of ``MALFORMED``, for the caller to translate by one of the above."""
    certificate = x509.load_der_x509_certificate(encoded)
    _check_names(encoded)
    return certificate


def _check_names(encoded: bytes) -> None:
    """Refuse a certificate whose issuer or subject is long: the library takes 7 microseconds for each part of one."""
    fields = list(der.tbs_fields(encoded))
    for name in (fields[der.ISSUER], fields[der.SUBJECT]):
        if len(name) > MAX_NAME:
            raise ValueError(f"a name of {len(name)} bytes, the limit is {MAX_NAME}")


def _is_about_input(error: BaseException) -> bool:
    return isinstance(error, MALFORMED) or type(error).__name__ == _PANIC


def reason_of(error: BaseException) -> str:
    """Return what an error of `cryptography` says, in one line that is fit for a log."""
    if _ENCODED_DEFAULT in str(error):
        place = shown(str(error).rpartition('"')[0].rpartition('"')[2])
        return f"a default value is encoded in {place}, which DER does not allow (ITU-T X.690 section 11.5): reissue it"
    return shown(str(error).partition("\n")[0], _MAX_REASON) or type(error).__name__


def shown(text: str, limit: int = _MAX_SHOWN) -> str:
    """Return `text`, which a peer or the author of a file chose, fit for a log: printable ASCII, and not long."""
    printable = "".join(c if " " <= c <= "~" and c != "\\" else ascii(c)[1:-1] for c in text[: limit + 1])
    return printable if len(printable) <= limit else printable[:limit] + "..."
