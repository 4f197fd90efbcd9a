"""The little of DER (ITU-T X.690) that is needed to find where one element ends and the next begins."""

from collections.abc import Iterator
from typing import NamedTuple

INTEGER = 0x02
SEQUENCE = 0x30
ISSUER, SUBJECT, PUBLIC_KEY = 2, 4, 5
"""Indexes of the fields of a TBSCertificate: RFC 5280 section 4.1, not counting the version."""
_VERSION = 0xA0
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 4


class Element(NamedTuple):
    """One element of DER: its tag byte, and where in the data its content begins and ends."""

    tag: int
    begin: int
    end: int


def pull_element(data: bytes, at: int = 0) -> Element:
    """Return the element that begins at offset `at`; ValueError if it is cut short or its length is not definite."""
    if len(data) < at + 2:
        raise ValueError("truncated DER data")
    tag, length, begin = data[at], data[at + 1], at + 2
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        if not 0 < size <= _MAX_LENGTH_BYTES or len(data) < begin + size:
            raise ValueError("invalid or indefinite length in the DER data")
        length, begin = int.from_bytes(data[begin : begin + size]), begin + size
    if len(data) < begin + length:
        raise ValueError("truncated DER data")
    return Element(tag, begin, begin + length)


def elements(data: bytes, outer: Element) -> Iterator[Element]:
    """Yield the elements that `outer` consists of; ValueError as above."""
    at = outer.begin
    while at < outer.end:
        element = pull_element(data, at)
        if element.end > outer.end:
            raise ValueError("truncated DER data")
        yield element
        at = element.end


def encodings(data: bytes, outer: Element) -> Iterator[bytes]:
    """Yield the elements that `outer` consists of, each with its tag and length; ValueError as above."""
    begin = outer.begin
    for element in elements(data, outer):
        yield data[begin : element.end]
        begin = element.end


def parts(data: bytes) -> Iterator[bytes]:
    """Yield the elements that the element at the beginning of `data` consists of, as ``encodings`` does."""
    yield from encodings(data, pull_element(data))


def tbs_fields(certificate: bytes) -> Iterator[bytes]:
    """Yield the encoded fields of the TBSCertificate of a certificate in DER, without its optional version.

    ValueError as above.
    """
    body = pull_element(certificate, pull_element(certificate).begin)
    for field in encodings(certificate, body):
        if field[0] != _VERSION:
            yield field


def is_one_sequence(data: bytes) -> bool:
    """Return whether `data` is one SEQUENCE and nothing else, as every certificate, list and key in DER is."""
    try:
        element = pull_element(data)
    except ValueError:
        return False
    return element.tag == SEQUENCE and element.end == len(data)


def push_sequence(content: bytes) -> bytes:
    """Encode a SEQUENCE with this content."""
    size = len(content)
    if size < _LONG_FORM:
        return bytes([SEQUENCE, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([SEQUENCE, _LONG_FORM | len(length)]) + length + content
