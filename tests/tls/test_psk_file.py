"""Files of external pre-shared keys: every line is read, or named in the error, without its key."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import UnreadableError
from handshaked.tls.psk_file import MAX_PSKS, MIN_PSK, read_psk_file

KEY = b"0123456789abcdef" * 2


def test_every_key_is_returned_and_the_first_is_a_clients_own() -> None:
    found = read_psk_file(b"# keys\r\n\r\n one:%b\r\nname:with:colons:%b\n" % (KEY, KEY[::-1]), "psk")
    assert found.own().identity == b"one"
    assert found.find(b"one").key == bytes.fromhex(KEY.decode())
    assert found.find(b"name:with:colons").key == bytes.fromhex(KEY[::-1].decode())
    assert found.find(b"other") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "contains 0 keys"),
        (b"# only text\n", "contains 0 keys"),
        (b"one:%b\ntwo\n" % KEY, "line 2 is not IDENTITY:KEY"),
        (b"one:%b\n:%b\n" % (KEY, KEY), "line 2 is not IDENTITY:KEY"),
        (b"one:%b" % KEY[: 2 * MIN_PSK - 2], "line 1 is not IDENTITY:KEY"),
        (b"one:\xff%b" % KEY, "line 1 is not IDENTITY:KEY"),
        (b"one:%b\none:%b\n" % (KEY, KEY[::-1]), "line 2 repeats the identity"),
        (b"".join(b"%d:%b\n" % (n, KEY) for n in range(MAX_PSKS + 1)), f"contains {MAX_PSKS + 1} keys"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_psk_file(content, "psk")
    assert str(caught.value).startswith(f"psk: {reason}")
    assert KEY[:8].decode() not in str(caught.value)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(UnreadableError):
        read_psk_file(content, "psk")
