"""Sockets that the demultiplexer opens itself."""

import socket

import pytest

from handshaked.demux.sockets import OwnSockets
from tests.descriptors import none_left_open

WILDCARDS = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104 - only within the test


@pytest.mark.parametrize(("family", "wildcard"), WILDCARDS)
def test_sockets_that_cannot_be_bound_are_closed(family: int, wildcard: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as taken, none_left_open():
        taken.bind((wildcard, 0))  # not shared
        with pytest.raises(OSError, match="in use"):
            OwnSockets().for_flow(family, taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            OwnSockets().shared(taken.getsockname())


def test_socket_that_may_not_send_fragments_is_required() -> None:
    with none_left_open(), pytest.raises(OSError, match="not supported"):
        OwnSockets().unbound(socket.AF_UNIX)
