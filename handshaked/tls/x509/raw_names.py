"""Names of certificates, straight from the DER: for comparison byte by byte, and where the parser refuses the rest."""

from collections.abc import Iterator

from handshaked.tls.x509.der import elements, encodings, pull_element
from handshaked.tls.x509.parsing import shown

_KEYWORDS = {b"\x55\x04\x03": "CN", b"\x55\x04\x06": "C", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU"}
_VERSION = 0xA0
_BMP_STRING = 0x1E
_ISSUER, _SUBJECT = 2, 4  # after serialNumber and signature; after validity


def raw_subject(certificate: bytes) -> str:
    """Return the common attributes of the subject of a certificate in DER, fit for a log; empty if there are none."""
    try:
        return shown(", ".join(_attributes(_field(certificate, _SUBJECT))))
    except ValueError:
        return ""


def raw_issuer(certificate: bytes) -> bytes:
    """Return the encoded name of the issuer of a certificate in DER; ValueError if there is none."""
    return _field(certificate, _ISSUER)


def _field(certificate: bytes, number: int) -> bytes:
    """Return a field of the TBSCertificate (RFC 5280 section 4.1), not counting the version."""
    body = pull_element(certificate, pull_element(certificate).begin)
    fields = [one for one in encodings(certificate, body) if one[0] != _VERSION]
    if len(fields) <= number:
        raise ValueError("truncated certificate")
    return fields[number]


def _attributes(name: bytes) -> Iterator[str]:
    """Yield ``KEYWORD=VALUE`` for each attribute of a name."""
    for names in elements(name, pull_element(name)):
        for attribute in elements(name, names):
            kind, value = elements(name, attribute)
            keyword = _KEYWORDS.get(name[kind.begin : kind.end])
            if keyword is not None:
                yield f"{keyword}={_text(value.tag, name[value.begin : value.end])}"


def _text(tag: int, content: bytes) -> str:
    if tag == _BMP_STRING:
        return content.decode("utf-16-be", errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
