"""Handshakes of libhandshaked for userspace QUIC stacks."""

import pytest

from tests.c.programs import NAME, Run

pytestmark = pytest.mark.needs("cc", "make", "nm")


def test_relayed_handshake_delivers_secrets_and_ticket(run: Run) -> None:
    printed = run("relay", NAME, "h3")
    assert printed.splitlines() == [
        "server: of the client h3",
        "client: of the server h3",
        "client: 0 ",
        "server: 0 web",
        "secrets: 4 4 agree",
        "server: of the client h3",
        "client: of the server h3",
        "client: 0  resumed",
        "server: 0 web resumed",
        "secrets: 4 4 agree",
    ]
