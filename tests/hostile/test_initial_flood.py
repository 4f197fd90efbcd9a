"""Floods of Initials from spoofed sources at the shared port, beside established and new honest connections."""

import os
from pathlib import Path

import pytest

from handshaked.demux.dispatcher import Bounds
from handshaked.testing.authority import Authority
from tests.hostile.initial_flood import NAME, Plan, measure

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.needs("root")]

RATE = 10_000.0


def share_of_machine() -> float:
    """Return the share of the processors that other work leaves, at least for one process of each two that wait."""
    return 1 / max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("delivery", "server_name", "seconds", "pulse"),
    [("accept", NAME, 10.0, 0.0), ("relay", NAME, 5.0, 0.0), ("accept", None, 5.0, 0.0), ("accept", NAME, 5.0, 1.2)],
    ids=["accept", "relay", "forged", "pulses"],
)
def test_flood_of_initials_costs_honest_clients_little(
    delivery: str, server_name: str | None, seconds: float, pulse: float, public_directory: Path, authority: Authority
) -> None:
    """Established flows lose nothing; every new connection succeeds, 99 of 100 within a second.

    With pulses, Retries begin and end while connections are made.
    """
    share = share_of_machine()
    plan = Plan(RATE * share, seconds, delivery, server_name, Bounds().retry_from * share, pulse)
    report = measure(public_directory, authority, plan)
    print(report)
    report.check()
