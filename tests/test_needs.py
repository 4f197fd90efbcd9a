"""Needs of tests, and the closing line about them."""

from collections import Counter

import pytest

from tests.plugins.needs import need, summary


def test_missing_program_skips_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BaseException, match="missing: gtlsserver") as raised:
        need("gtlsserver")
    assert raised.typename == "Skipped"


def test_unlisted_program_is_an_error() -> None:
    with pytest.raises(AssertionError, match="in programs"):
        need("no-such-program")


def test_closing_line_counts_tests_and_names_packages() -> None:
    missing = Counter({"gtlsclient": 31, "gnutls-serv": 12, "root": 1})
    assert summary(missing) == (
        "missing: gtlsclient (31 tests), gnutls-serv (12 tests), root (1 test);"
        " on Debian: apt-get install gnutls-bin ngtcp2-client"
    )
    assert summary(Counter({"root": 2})) == "missing: root (2 tests)"
    assert summary(Counter()) == ""
