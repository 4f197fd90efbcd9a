"""Retry tokens."""

from hypothesis import given
from hypothesis import strategies as st

from handshaked.demux.retry_tokens import RetryTokens


def test_token_is_valid_for_one_client_and_a_short_time() -> None:
    tokens = RetryTokens()
    token = tokens.seal("192.0.2.1:1", b"original", b"retry", 100.0)
    assert tokens.open(token, "192.0.2.1:1", b"retry", 105.0) == b"original"
    assert tokens.open(token, "192.0.2.1:2", b"retry", 105.0) is None
    assert tokens.open(token, "192.0.2.1:1", b"other", 105.0) is None
    assert tokens.open(token, "192.0.2.1:1", b"retry", 111.0) is None
    assert RetryTokens().open(token, "192.0.2.1:1", b"retry", 105.0) is None
    assert RetryTokens.is_ours(token)
    assert not RetryTokens.is_ours(b"token of a server")


@given(st.binary(max_size=100), st.integers(0, 60))
def test_invalid_token_is_rejected(token: bytes, cut: int) -> None:
    tokens = RetryTokens()
    ours = tokens.seal("192.0.2.1:1", b"original", b"retry", 0.0)
    for invalid in (token, ours[:8] + token, ours[:cut], ours[: len(ours) - 1]):
        if invalid != ours:
            assert tokens.open(invalid, "192.0.2.1:1", b"retry", 0.0) is None
