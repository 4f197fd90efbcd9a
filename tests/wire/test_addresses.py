"""Socket addresses as text, and the source that limits count."""

import socket

import pytest

from handshaked.wire.addresses import Address, any_address, family_of, is_any, parse_address, show_address, source_of

ADDRESSES: list[tuple[Address, str]] = [
    (("192.0.2.1", 443), "192.0.2.1:443"),
    (("2001:db8::1", 443, 0, 0), "[2001:db8::1]:443"),
    (("fe80::1", 443, 0, 3), "[fe80::1%3]:443"),
]


@pytest.mark.parametrize(("address", "text"), ADDRESSES)
def test_address_survives_a_round_trip(address: Address, text: str) -> None:
    assert show_address(address) == text
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "example.com:443", "2001:db8::1:443", "[::1]", "[::1:443"],
)
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_source_is_an_ipv4_address_or_an_ipv6_network() -> None:
    assert source_of(("192.0.2.1", 1)) != source_of(("192.0.2.2", 1))
    assert source_of(("2001:db8::1", 1, 0, 0)) == source_of(("2001:db8::2", 2, 0, 0))
    assert source_of(("fe80::1%lo", 1, 0, 1)) == source_of(("fe80::2", 1, 0, 1))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_wildcard_address_is_what_the_kernel_reports(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(any_address(family))
        bound: Address = sock.getsockname()
    assert bound == any_address(family, bound[1])
    assert family_of(bound) == family
    assert is_any(bound)


@pytest.mark.parametrize("address", [address for address, _ in ADDRESSES])
def test_other_address_is_no_wildcard(address: Address) -> None:
    assert not is_any(address)
