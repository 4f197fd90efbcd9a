"""Connections of callers while the kernel is short of memory, descriptors or epoll watches."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handshaked.callers.account import Account, Limits
from handshaked.callers.closing import close_unread
from handshaked.callers.fair_queue import FairQueue
from handshaked.callers.paced_reader import PacedReader
from handshaked.callers.threads import Threads
from tests.patience import soon

SHORTAGE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def failing_once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call`, which raises SHORTAGE the first time."""
    called: list[int] = []

    def wrapped(*arguments: object) -> object:
        called.append(1)
        if len(called) == 1:
            raise SHORTAGE
        return call(*arguments)

    return wrapped


def test_connection_is_read_when_epoll_has_room_again(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair
    monkeypatch.setattr("handshaked.system.readiness._RETRY_SECONDS", 0.0)

    async def scenario() -> bytes:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", failing_once(loop.add_reader))
        received: asyncio.Future[bytes] = loop.create_future()

        def read() -> Iterator[int]:
            received.set_result(ours.recv(10))
            yield 1

        theirs.send(b"x")
        reader = PacedReader(ours, Account(Limits(), loop.time()), FairQueue(), read, lambda _: None)
        try:
            return await soon(received)
        finally:
            reader.stop()

    assert asyncio.run(scenario()) == b"x"
    assert caplog.messages == ["a connection to a caller cannot be used for now: [Errno 28] No space left on device"]
    assert caplog.records[0].levelno == logging.ERROR


class Short(socket.socket):
    """A socket whose options cannot be set."""

    def setsockopt(self, *arguments: object) -> None:  # type: ignore[override]
        raise SHORTAGE


def test_socket_is_closed_even_if_its_queue_cannot_be_looked_at() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    short = Short(fileno=ours.detach())

    async def scenario() -> None:
        closed = asyncio.Event()
        close_unread(short, Threads(1), closed.set)
        await soon(closed.wait())

    with theirs:
        asyncio.run(scenario())
        assert short.fileno() == -1
        assert theirs.recv(1) == b""
