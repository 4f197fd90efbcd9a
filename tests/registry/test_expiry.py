"""Warnings of expiry fit the lifetime of a certificate."""

import pytest

from handshaked.registry.expiry import DAY, LONGEST_WARNING, Expiry, date, expires, expiry, warning_time

HOUR = DAY / 24


@pytest.mark.parametrize(
    ("lifetime", "soon", "urgent"),
    [
        (365 * DAY, 14 * DAY, 3 * DAY),
        (90 * DAY, 14 * DAY, 3 * DAY),
        (30 * DAY, 10 * DAY, 2 * DAY),
        (6 * DAY, 2 * DAY, 9.6 * HOUR),
        (DAY, 8 * HOUR, 1.6 * HOUR),
        (HOUR, HOUR / 3, HOUR / 15),
    ],
)
def test_stages_are_parts_of_the_lifetime_with_a_limit(lifetime: float, soon: float, urgent: float) -> None:
    end = 10_000 * DAY
    begin = end - lifetime
    assert warning_time(begin, end) == pytest.approx(end - soon)
    assert soon <= LONGEST_WARNING
    stages = [
        (begin, Expiry.FAR),
        (end - soon - 1, Expiry.FAR),
        (end - soon + 1, Expiry.SOON),
        (end - urgent - 1, Expiry.SOON),
        (end - urgent + 1, Expiry.URGENT),
        (end - 1, Expiry.URGENT),
        (end, Expiry.EXPIRED),
        (end + DAY, Expiry.EXPIRED),
    ]
    for now, stage in stages:
        assert expiry(begin, end, now) is stage


def test_expiry_is_shown_in_days_and_hours() -> None:
    assert expires(2.5 * DAY, 0) == "expires in 2 days"
    assert expires(1.5 * DAY, 0) == "expires in 1 d 12 h"
    assert expires(0, DAY) == f"expired on {date(0)}"
