"""DER elements: found where they are, refused where they are cut short or of indefinite length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.tls.x509.der import (
    ISSUER,
    PUBLIC_KEY,
    SUBJECT,
    Element,
    is_one_sequence,
    pull_element,
    push_sequence,
    tbs_fields,
)


@given(st.binary(max_size=70_000), st.binary(max_size=3), st.binary(max_size=3))
def test_pushed_sequence_is_pulled(content: bytes, before: bytes, after: bytes) -> None:
    encoded = push_sequence(content)
    tag, begin, end = pull_element(before + encoded + after, len(before))
    assert (tag, (before + encoded)[begin:end], end) == (0x30, content, len(before + encoded))
    assert is_one_sequence(encoded)
    assert is_one_sequence(encoded + after) == (not after)
    assert not is_one_sequence(encoded[:-1])


def test_short_form_is_pulled() -> None:
    assert pull_element(b"\x04\x02ab") == Element(0x04, 2, 4)


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x01", b"\x30\x80\x00\x00", b"\x30\x82\x01", b"\x30\x85\0\0\0\0\0", b"\x30\xff"]
)
def test_malformed_element_is_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="DER"):
        pull_element(data)
    assert not is_one_sequence(data)


def test_fields_of_a_certificate_do_not_depend_on_its_version() -> None:
    fields = [push_sequence(bytes([5, 0] * number)) for number in range(7)]
    for version in (b"", b"\xa0\x03\x02\x01\x02"):
        certificate = push_sequence(push_sequence(version + b"".join(fields)) + b"\x05\x00")
        found = list(tbs_fields(certificate))
        assert found == fields
        assert (found[ISSUER], found[SUBJECT], found[PUBLIC_KEY]) == (fields[2], fields[4], fields[5])


@pytest.mark.parametrize("certificate", [b"", b"0\x00", push_sequence(b"0\x05\x02"), push_sequence(b"0\x02\x02\x05")])
def test_truncated_certificate_is_value_error(certificate: bytes) -> None:
    with pytest.raises(ValueError, match="truncated"):
        list(tbs_fields(certificate))
