"""Addresses, routes and tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.demux.connection_ids import ConnectionIds
from handshaked.demux.daemon import BoundedDict
from handshaked.demux.retry_tokens import RetryTokens
from handshaked.errors import RefusedError
from handshaked.registry.delivery import Delivery, Way, parse_delivery
from handshaked.wire.addresses import Address, parse_address, show_address, source_of

ADDRESSES: list[tuple[Address, str]] = [
    (("192.0.2.1", 443), "192.0.2.1:443"),
    (("2001:db8::1", 443, 0, 0), "[2001:db8::1]:443"),
    (("fe80::1", 443, 0, 3), "[fe80::1%3]:443"),
]


@pytest.mark.parametrize(("address", "text"), ADDRESSES)
def test_addresses_are_written_and_read(address: Address, text: str) -> None:
    assert show_address(address) == text
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "example.com:443", "2001:db8::1:443", "[::1]", "[::1:443"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_a_source_is_an_address_or_a_network() -> None:
    assert source_of(("192.0.2.1", 1)) != source_of(("192.0.2.2", 1))
    assert source_of(("2001:db8::1", 1, 0, 0)) == source_of(("2001:db8::2", 2, 0, 0))
    assert source_of(("fe80::1%lo", 1, 0, 1)) == source_of(("fe80::2", 1, 0, 1))


@pytest.mark.parametrize(
    ("text", "delivery"),
    [
        ("accept", Delivery(Way.ACCEPT)),
        ("relay", Delivery(Way.RELAY)),
        ("forward 192.0.2.1:8443", Delivery(Way.FORWARD, "192.0.2.1", 8443)),
        ("forward [2001:db8::1]:8443", Delivery(Way.FORWARD, "2001:db8::1", 8443)),
    ],
)
def test_deliveries_are_written_and_read(text: str, delivery: Delivery) -> None:
    assert parse_delivery(text) == delivery
    assert delivery.text == text


def test_an_ipv4_address_in_ipv6_is_that_ipv4_address() -> None:
    assert parse_delivery("forward [::ffff:192.0.2.1]:8443") == Delivery(Way.FORWARD, "192.0.2.1", 8443)


@pytest.mark.parametrize(
    "text", ["", "drop", "accept 1.2.3.4:5", "forward", "forward example.com:443", "forward ::1:2"]
)
def test_other_deliveries_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_delivery(text)


def test_listeners_are_found_by_their_route_and_relays_by_what_was_learned() -> None:
    routes: ConnectionIds[str, str] = ConnectionIds()
    route = routes.give("first", 1000)
    assert routes.give("second", 1000, route) != route
    assert routes.listener(route + b"any id") == "first"
    assert routes.learn(b"an id of a server", "relay")
    assert not routes.learn(b"an id of a server", "another")
    assert routes.relay_behind_short_header(b"\x40an id of a server and data") == "relay"
    assert routes.relay_behind_short_header(b"\x40an id of another one and data") is None
    routes.forget(b"an id of a server")
    routes.take(route)
    assert routes.relay(b"an id of a server") is None
    assert routes.listener(route) is None
    assert routes.give("third", 1000, route) == route


def test_behind_a_restart_a_route_could_be_taken_by_who_asked_first() -> None:
    """Whoever it is: the other's clients were led to him when their addresses changed."""
    route = ConnectionIds[str, str]().give("of one user", 1000)
    successor = ConnectionIds[str, str]()
    assert successor.give("of another", 1001, route) != route
    assert successor.give("of one user", 1000, route) == route


def test_ids_that_are_too_short_are_not_learned() -> None:
    routes: ConnectionIds[str, str] = ConnectionIds()
    assert not routes.learn(b"abc", "relay")
    assert len(routes) == 0


def test_a_token_is_for_one_client_and_a_short_while() -> None:
    tokens = RetryTokens()
    token = tokens.seal("192.0.2.1:1", b"original", b"retry", 100.0)
    assert tokens.open(token, "192.0.2.1:1", b"retry", 105.0) == b"original"
    assert tokens.open(token, "192.0.2.1:2", b"retry", 105.0) is None
    assert tokens.open(token, "192.0.2.1:1", b"other", 105.0) is None
    assert tokens.open(token, "192.0.2.1:1", b"retry", 111.0) is None
    assert RetryTokens().open(token, "192.0.2.1:1", b"retry", 105.0) is None
    assert RetryTokens.is_ours(token)
    assert not RetryTokens.is_ours(b"of a server behind us")


@given(st.binary(max_size=100), st.integers(0, 60))
def test_other_tokens_open_to_nothing(token: bytes, cut: int) -> None:
    tokens = RetryTokens()
    ours = tokens.seal("192.0.2.1:1", b"original", b"retry", 0.0)
    for spoiled in (token, ours[:8] + token, ours[:cut], ours[: len(ours) - 1]):
        if spoiled != ours:
            assert tokens.open(spoiled, "192.0.2.1:1", b"retry", 0.0) is None


def test_the_oldest_entry_goes_when_there_are_too_many() -> None:
    latest: BoundedDict[str, int] = BoundedDict(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        latest[key] = value
    assert list(latest.items()) == [("a", 3), ("c", 4)]
