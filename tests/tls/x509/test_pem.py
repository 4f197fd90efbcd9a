"""PEM blocks: all of a file, with their lines, whatever text is around them; damaged boundaries are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import UnreadableError
from handshaked.tls.x509.pem import pull_blocks

ONE = b"-----BEGIN A-----\nAAEC\n-----END A-----\n"
TWO = b"-----BEGIN B C-----\nProc-Type: 4,ENCRYPTED\n\nAwQF\nBg==\n-----END B C-----\n"


def test_blocks_are_returned_with_label_line_and_content() -> None:
    first, second = pull_blocks(b"text\r\n" + ONE + b"more text\n\n" + TWO, "file")
    assert (first.label, first.place, first.decode()) == ("A", "file: line 2", b"\0\1\2")
    assert (second.label, second.place, second.decode()) == ("B C", "file: line 7", b"\3\4\5\6")
    assert second.text == TWO
    assert "AAEC" not in repr(first)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b" \t\n", b"\n  "])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"# -- BEGIN, in a comment\n", b"\n" * 1000])
def test_text_and_line_ends_do_not_matter(before: bytes, line_end: bytes) -> None:
    [block] = pull_blocks(before + ONE.replace(b"\n", line_end), "file")
    assert block.decode() == b"\0\1\2"
    assert block.text == ONE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ONE.decode().encode("utf-16"), "file: is UTF-16 text"),
        (ONE[:-16], "file: line 1: this BEGIN line has no END line: is the file cut short?"),
        (ONE[:23] + TWO, "file: line 1: this BEGIN line has no END line: is the file damaged?"),
        (ONE + ONE[18:], "file: line 5: this END line has no BEGIN line"),
        (ONE.replace(b"END A", b"END B"), "file: line 3: this END line has no BEGIN line"),
        (ONE.replace(b"-----END", b"----END"), "file: line 3: a damaged BEGIN or END line"),
        (ONE + ONE.replace(b"BEGIN A-----", b"BEGIN A---"), "file: line 4: a damaged BEGIN or END line"),
    ],
)
def test_damaged_boundary_is_refused_with_its_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        pull_blocks(content, "file")
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("body", [b"AA?C", b"AAE", b"AAEC=AAEC", b"Bg==AAEC"])
def test_content_that_is_not_base64_is_refused(body: bytes) -> None:
    [block] = pull_blocks(ONE.replace(b"AAEC", body), "file")
    with pytest.raises(UnreadableError, match="file: line 1: the A block is not base64"):
        block.decode()


@given(st.lists(st.sampled_from([ONE, TWO, b"-----BEGIN A-----", b"-----END A-----", b"--", b"BEGIN ", b"\n", b"x"])))
def test_every_pair_of_boundaries_is_a_block_or_the_file_is_refused(parts: list[bytes]) -> None:
    content = b"".join(parts)
    with contextlib.suppress(UnreadableError):
        blocks = pull_blocks(content, "file")
        assert len(blocks) >= parts.count(ONE) + parts.count(TWO)
