"""Retry tokens."""

from hypothesis import given
from hypothesis import strategies as st

from handshaked.demux.retry_tokens import RetriedClients, RetryTokens


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


def test_retried_clients_are_known_while_their_tokens_are_valid() -> None:
    clients = RetriedClients(limit=2)
    clients.add(("192.0.2.1", 1), b"first", 100.0)
    for now in (100.0, 109.0, 110.0):
        assert clients.has(("192.0.2.1", 1), b"first", now)
    assert not clients.has(("192.0.2.1", 2), b"first", 110.0)
    assert not clients.has(("192.0.2.1", 1), b"other", 110.0)
    assert not clients.has(("192.0.2.1", 1), b"first", 131.0)


def test_memory_for_retried_clients_is_bounded() -> None:
    clients = RetriedClients(limit=2)
    for number in range(10):
        clients.add(("192.0.2.1", number), b"", 100.0)
    assert [number for number in range(10) if clients.has(("192.0.2.1", number), b"", 100.0)] == [6, 7, 8, 9]
