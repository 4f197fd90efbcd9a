"""The subject of a certificate that the parser refuses, as far as it can be read."""

from collections.abc import Iterator

from handshaked.tls.x509.der import elements, pull_element
from handshaked.tls.x509.parsing import shown

_KEYWORDS = {b"\x55\x04\x03": "CN", b"\x55\x04\x06": "C", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU"}
_VERSION = 0xA0
_BMP_STRING = 0x1E


def raw_subject(certificate: bytes) -> str:
    """Return the common attributes of the subject of a certificate in DER, fit for a log; empty if there are none."""
    try:
        return shown(", ".join(_attributes(certificate)))
    except ValueError:
        return ""


def _attributes(data: bytes) -> Iterator[str]:
    """Yield ``KEYWORD=VALUE`` for each attribute; ValueError if the certificate is not built as in RFC 5280 4.1."""
    fields = [one for one in elements(data, pull_element(data, pull_element(data).begin)) if one.tag != _VERSION]
    if len(fields) < 5:
        raise ValueError("there is no subject")
    for names in elements(data, fields[4]):  # after serialNumber, signature, issuer and validity
        for attribute in elements(data, names):
            kind, value = elements(data, attribute)
            keyword = _KEYWORDS.get(data[kind.begin : kind.end])
            if keyword is not None:
                yield f"{keyword}={_text(value.tag, data[value.begin : value.end])}"


def _text(tag: int, content: bytes) -> str:
    if tag == _BMP_STRING:
        return content.decode("utf-16-be", errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
