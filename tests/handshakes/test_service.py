"""Lookups in steps, between which a worker serves others."""

import pytest

from handshaked.errors import PeerError
from handshaked.handshakes.service import assemble
from tests.quic.initials import PING, client_hello, crypto, initial, initials


def test_each_datagram_of_a_lookup_is_a_step() -> None:
    hello = client_hello()
    datagrams = [*initials([PING] * 20), *initials([crypto(0, hello)])]
    steps = assemble((*datagrams, initial(PING)))
    for _ in range(20):
        assert next(steps) == 0
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == hello


def test_datagrams_without_a_whole_client_hello_are_refused() -> None:
    with pytest.raises(PeerError, match="2 datagrams contain no complete"):
        list(assemble((initial(PING), b"junk")))
