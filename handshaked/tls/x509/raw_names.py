"""Names of certificates, straight from the DER: for comparison byte by byte, and where the parser refuses the rest."""

from collections.abc import Iterator

from handshaked.tls.x509.der import ISSUER, SUBJECT, elements, pull_element, tbs_fields
from handshaked.tls.x509.parsing import shown

_KEYWORDS = {b"\x55\x04\x03": "CN", b"\x55\x04\x06": "C", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU"}
_BMP_STRING = 0x1E


def raw_subject(certificate: bytes) -> str:
    """Return the common attributes of the subject of a certificate in DER, fit for a log; empty if there are none."""
    try:
        return shown(", ".join(_attributes(_field(certificate, SUBJECT))))
    except ValueError:
        return ""


def raw_issuer(certificate: bytes) -> bytes:
    """Return the encoded name of the issuer of a certificate in DER; ValueError if there is none."""
    return _field(certificate, ISSUER)


def _field(certificate: bytes, number: int) -> bytes:
    """Return the field of the TBSCertificate at the index `number` of ``tbs_fields``."""
    fields = list(tbs_fields(certificate))
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
