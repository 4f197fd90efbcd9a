"""The text of an error is short, whatever strangers have made it repeat."""

import pytest

from handshaked.errors import MAX_REASON, Alert, CallerError, HandshakedError, RefusedError, WireError, shortened

LONG = "\x01\N{EURO SIGN}" * 1_000_000


@pytest.mark.parametrize(
    "error", [RefusedError(f"unknown key {LONG!r}"), CallerError(Alert.INTERNAL_ERROR, LONG), WireError(LONG)]
)
def test_text_of_an_error_is_shortened(error: HandshakedError) -> None:
    assert len(str(error).encode()) <= MAX_REASON
    assert str(error).endswith("…")
    assert getattr(error, "reason", str(error)) == str(error)


@pytest.mark.parametrize("text", ["", "short", "x" * MAX_REASON, "\N{EURO SIGN}" * (MAX_REASON // 3), "a\udcff"])
def test_short_text_stays_as_it_is(text: str) -> None:
    assert shortened(text) == text
    assert str(RefusedError(text)) == text


def test_text_is_cut_between_characters() -> None:
    assert shortened("\N{EURO SIGN}" * 4, 10) == "\N{EURO SIGN}" * 2 + "…"
