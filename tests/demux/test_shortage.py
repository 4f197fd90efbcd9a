"""A demultiplexer to which the system refuses sockets or destinations drops datagrams and stays up."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from handshaked.wire.addresses import Address
from tests.demux.stage import Stage

FORBIDDEN: Address = ("255.255.255.255", 9)
"""The broadcast address, to which only sockets with SO_BROADCAST may send."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open no descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_flow_is_opened_that_epoll_has_no_room_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullEpoll:
        """An epoll instance of a user who has no watches left."""

        def register(self, *_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    client = stage.endpoint()
    with monkeypatch.context() as context:
        context.setattr("handshaked.demux.forwarder.select.epoll", FullEpoll)
        forwarder = stage.forwarder()
    before = len(os.listdir("/proc/self/fd"))
    assert stage.forward(forwarder, client) is None
    assert forwarder.pair(stage.local, client.getsockname(), "source", 0.0) is None
    assert len(forwarder) == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_flow_is_opened_without_descriptors(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    peer = client.getsockname()
    with no_more_descriptors():
        assert stage.forward(forwarder, client) is None
        assert forwarder.pair(stage.local, peer, "source", 0.0) is None
        assert stage.local.open_flow(peer) is None
    assert len(forwarder) == 0
    assert stage.forward(forwarder, client) is not None, "the forwarder recovers"


def test_no_flow_is_opened_to_a_forbidden_destination(stage: Stage) -> None:
    forwarder, client = stage.forwarder(), stage.endpoint()
    opened = forwarder.forward(stage.local, client.getsockname(), FORBIDDEN, "source", 0.0, proxy=False)
    assert opened is None
    assert stage.local.open_flow(FORBIDDEN) is None
    assert len(forwarder) == 0


@pytest.mark.parametrize("mark", [0, 2])
def test_datagram_to_a_forbidden_destination_is_dropped(stage: Stage, mark: int) -> None:
    stage.local.send(b"lost", FORBIDDEN, mark)
    client = stage.endpoint()
    stage.local.send(b"next", client.getsockname(), mark)
    assert client.recv(100) == b"next"


def test_reading_an_idle_port_receives_nothing(stage: Stage) -> None:
    stage.local.read()
    assert stage.received == []
