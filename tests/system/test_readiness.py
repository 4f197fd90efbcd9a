"""Sockets are watched as soon as the kernel has memory and room for that."""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handshaked.system.readiness import Readiness, readable
from tests.patience import soon

NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing(call: Callable[..., Any], times: int) -> Callable[..., Any]:
    """Return `call`, which raises an error the first so many `times`."""
    left = times

    def wrapped(*arguments: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise NO_ROOM
        return call(*arguments)

    return wrapped


@pytest.fixture(autouse=True)
def immediate_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.system.readiness._RETRY_SECONDS", 0.0)


def play(scenario: Callable[[socket.socket, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            await soon(scenario(ours, theirs))

    asyncio.run(run())


@pytest.mark.parametrize("writing", [False, True])
def test_socket_is_watched_when_the_kernel_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, writing: bool
) -> None:
    async def scenario(ours: socket.socket, theirs: socket.socket) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        name = "add_writer" if writing else "add_reader"
        monkeypatch.setattr(loop, name, failing(getattr(loop, name), 2))
        theirs.send(b"x")
        readiness = Readiness(ours, "the tests", ready.set, writing=writing)
        readiness.start()
        readiness.start()
        await soon(ready.wait())
        readiness.stop()
        assert not (loop.remove_writer if writing else loop.remove_reader)(ours)

    play(scenario)
    assert caplog.messages == [f"a connection to the tests cannot be used for now: {NO_ROOM}"]


def test_socket_that_is_closed_meanwhile_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(ours: socket.socket, theirs: socket.socket) -> None:
        loop, tries = asyncio.get_running_loop(), 0

        def add_reader(*_: Any) -> None:
            nonlocal tries
            tries += 1
            raise NO_ROOM

        monkeypatch.setattr(loop, "add_reader", add_reader)
        readiness = Readiness(ours, "the tests", pytest.fail)
        readiness.start()
        readiness.stop()
        readiness.stop()
        for _ in range(5):
            await asyncio.sleep(0)
        assert tries == 1

    play(scenario)


def test_waiting_for_data_ends_when_the_kernel_can_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(ours: socket.socket, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", failing(loop.add_reader, 1))
        theirs.close()
        await readable(ours, "the tests")
        assert not loop.remove_reader(ours)

    play(scenario)
