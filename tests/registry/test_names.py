"""Server names and application protocols: one canonical form, and refusals that say what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import RefusedError
from handshaked.registry.names import canonical_server_name, check_alpn, lookup_names, parse_alpn, show_alpn

LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("*.Example.com", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("日本語。example", "xn--wgv71a119e.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip.example.com", "_sip.example.com"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_names_are_converted_to_the_canonical_form(name: str, canonical: str) -> None:
    assert canonical_server_name(name) == canonical


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is not a host name"),
        (".", "is not a host name"),
        ("a..b", "is not a host name"),
        (".example.com", "is not a host name"),
        ("-a.example.com", "is not a host name"),
        ("a-.example.com", "is not a host name"),
        ("a b.example.com", "is not a host name"),
        ("a\0.example.com", "is not a host name"),
        ("a" * 64 + ".example", "is not a host name"),
        ("*", "a wildcard stands for the first label only"),
        ("*example.com", "a wildcard stands for the first label only"),
        ("a.*.example.com", "a wildcard stands for the first label only"),
        ("*.*.example.com", "a wildcard stands for the first label only"),
        ("*.", "is not a host name"),
        ("*.com", "at least two labels"),
        ("192.0.2.1", "is an IP address"),
        ("*.192.0.2.1", "is an IP address"),
        ("2001:db8::1", "is not a host name"),
        ("ab.cd" * 60, "longer than 253"),
        ("☃☃\u200d.example", "not a valid internationalised name"),
        ("a\ud800.example", "not a valid internationalised name"),
    ],
)
def test_invalid_host_name_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        canonical_server_name(name)


@given(st.text(max_size=300))
def test_canonical_name_is_unchanged(name: str) -> None:
    try:
        canonical = canonical_server_name(name)
    except RefusedError:
        return
    assert canonical_server_name(canonical) == canonical
    assert canonical.isascii()
    assert canonical == canonical.lower()
    assert len(canonical) <= 253


@given(st.lists(LABELS, min_size=2, max_size=5).map(".".join), st.booleans())
def test_canonical_name_is_found_whatever_its_case_and_trailing_dot(name: str, dot: bool) -> None:
    assert lookup_names(name.upper() + "." * dot)[0] == name


@pytest.mark.parametrize(
    ("server_name", "names"),
    [
        (None, (None,)),
        ("localhost", ("localhost", None)),
        ("a.example.com", ("a.example.com", "*.example.com", None)),
        ("b.a.example.com", ("b.a.example.com", "*.a.example.com", None)),
        # A wildcard stands for exactly one label, which cannot be empty.
        (".example.com", (None,)),
    ],
)
def test_names_are_looked_up_most_specific_first(server_name: str | None, names: tuple[str | None, ...]) -> None:
    assert lookup_names(server_name) == names


def test_client_cannot_ask_for_a_wildcard_by_its_asterisk() -> None:
    assert "*.example.com" not in lookup_names("*.example.com")


@given(st.binary(min_size=1, max_size=255))
def test_text_form_of_a_protocol_survives_a_round_trip(alpn: bytes) -> None:
    shown = show_alpn(alpn)
    assert parse_alpn(shown) == alpn
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("text", "alpn"),
    [("h3", b"h3"), (r"\x00grease", b"\0grease"), (r"a\\b", rb"a\b"), ("ü", "ü".encode()), (r"\xFf\x41", b"\xffA")],
)
def test_text_form_of_a_protocol_is_parsed(text: str, alpn: bytes) -> None:
    assert parse_alpn(text) == alpn


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "of 0 bytes: use 1 to 255"),
        ("a" * 256, "of 256 bytes: use 1 to 255"),
        ("ü" * 128, "of 256 bytes: use 1 to 255"),
        (r"\x0", r"write a backslash as \\\\"),
        (r"\n", r"write a backslash as \\\\"),
        ("h3\\", r"write a backslash as \\\\"),
        ("h\udcff", "is not UTF-8"),  # how Python decodes a command line that is not UTF-8
    ],
)
def test_invalid_protocol_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        parse_alpn(text)


def test_protocol_length_is_counted_in_bytes() -> None:
    assert check_alpn(b"a" * 255) == b"a" * 255
    with pytest.raises(RefusedError, match="of 0 bytes"):
        check_alpn(b"")
    with pytest.raises(RefusedError, match="of 256 bytes"):
        check_alpn(b"a" * 256)
