"""The setting ``deliver`` of a registration."""

import pytest

from handshaked.errors import RefusedError
from handshaked.registry.delivery import Delivery, Way, parse_delivery


@pytest.mark.parametrize(
    ("text", "delivery"),
    [
        ("accept", Delivery(Way.ACCEPT)),
        ("relay", Delivery(Way.RELAY)),
        ("forward 192.0.2.1:8443", Delivery(Way.FORWARD, "192.0.2.1", 8443)),
        ("forward [2001:db8::1]:8443", Delivery(Way.FORWARD, "2001:db8::1", 8443)),
    ],
)
def test_delivery_survives_a_round_trip(text: str, delivery: Delivery) -> None:
    assert parse_delivery(text) == delivery
    assert delivery.text == text


def test_ipv4_mapped_address_becomes_an_ipv4_address() -> None:
    assert parse_delivery("forward [::ffff:192.0.2.1]:8443") == Delivery(Way.FORWARD, "192.0.2.1", 8443)


@pytest.mark.parametrize(
    "text", ["", "drop", "accept 1.2.3.4:5", "forward", "forward example.com:443", "forward ::1:2"]
)
def test_invalid_delivery_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_delivery(text)
