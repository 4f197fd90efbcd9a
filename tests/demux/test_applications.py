"""The demultiplexer's Unix socket for applications: requests of one user do not delay others."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handshaked.callers.log_limit import LogLimit
from handshaked.demux.applications import AcceptBounds, ApplicationEvents, Applications
from handshaked.demux.connection_ids import ConnectionIds
from handshaked.errors import Status
from handshaked.system.listening import open_listener
from handshaked.testing.authority import Authority
from handshaked.wire.attached import push_descriptors
from handshaked.wire.demux import (
    MAX_PACKET,
    Listen,
    Release,
    StatusAnswer,
    pull_from_demux,
    push_listen,
    push_release,
    push_status,
)
from handshaked.wire.messages import Refused
from tests.handshake_channel import user
from tests.lingering import lingering_pair, reset_on_close
from tests.plugins.needs import need
from tests.registered import Registered

HELD = 1_000_000


class Scene:
    """Applications in an event loop."""

    def __init__(self, stack: ExitStack, path: Path, authority: Authority) -> None:
        self._stack = stack
        self._path = path
        self._listener = stack.enter_context(open_listener(path))
        self.asked = 0
        self.held_when_asked = 0
        events = ApplicationEvents(lambda *_: None, lambda _: None, self._metrics)
        connection_ids: ConnectionIds[Any, Any] = ConnectionIds()
        bounds = AcceptBounds(held_per_user=HELD)
        self.applications = Applications(self._listener, connection_ids, bounds, events, LogLimit())
        registered = Registered(authority)
        registered.add("web", names=("web.example.com",))
        self.applications.snapshot = registered.snapshot
        self.applications.open()
        stack.callback(self.applications.close)

    def _metrics(self) -> str:
        self.asked += 1
        self.held_when_asked = self.applications.held
        return "metrics"

    def connect(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.connect(os.fspath(self._path))
        sock.setblocking(False)
        return sock


async def answer(sock: socket.socket) -> tuple[int, object]:
    """Receive the next message with its sequence number."""
    ((sequence, message),) = pull_from_demux(await asyncio.get_running_loop().sock_recv(sock, MAX_PACKET))
    return sequence, message


def run(directory: Path, authority: Authority, scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            await scenario(Scene(stack, directory / "accept", authority))

    asyncio.run(main())


@pytest.mark.needs("root")
def test_flood_of_one_application_does_not_delay_another(public_directory: Path, authority: Authority) -> None:
    releases = 4000

    async def scenario(scene: Scene) -> None:
        flooding = [scene.connect() for _ in range(16)]
        flooding[0].send(push_listen(1, Listen("web", held=HELD)))
        await answer(flooding[0])
        with user(54321):
            other = scene.connect()
        other.send(push_status(1))
        await answer(other)  # all are connected
        for _ in range(2):
            flooding[0].send(push_release(Release(1)) * releases)
        for one in flooding[1:]:
            one.send(push_release(Release(1)) * releases)
        other.send(push_status(2))
        assert await answer(other) == (2, StatusAnswer("metrics"))
        assert scene.held_when_asked > HELD - releases

    run(public_directory, authority, scenario)


def test_one_status_query_per_packet_is_answered(public_directory: Path, authority: Authority) -> None:
    async def scenario(scene: Scene) -> None:
        sock = scene.connect()
        for first in (1, 4):
            sock.send(b"".join(push_status(first + number) for number in range(3)))
            assert await answer(sock) == (first, StatusAnswer("metrics"))
            for number in (1, 2):
                sequence, refused = await answer(sock)
                assert isinstance(refused, Refused)
                assert (sequence, refused.error.status) == (first + number, Status.RATE_LIMITED)
        assert scene.asked == 2

    run(public_directory, authority, scenario)


@pytest.mark.parametrize("refused", [True, False], ids=["Linux 6.16", "older Linux"])
def test_lingering_socket_does_not_block_the_port(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Closing it waits for its peer, for as long as the sender has chosen."""
    if refused:
        need("SO_PASSRIGHTS (Linux 6.16)")
    else:
        monkeypatch.setattr("handshaked.demux.applications.refuse_descriptors", lambda _: False)

    async def scenario(scene: Scene) -> None:
        honest, hostile = scene.connect(), scene.connect()
        with lingering_pair() as (sender, receiver):
            rights = push_descriptors([sender.fileno()])
            if refused:
                with pytest.raises(PermissionError):
                    hostile.sendmsg([push_status(1)], rights)
                reset_on_close(sender)
                return
            hostile.sendmsg([push_status(1)], rights)
            sender.close()
            assert isinstance((await answer(hostile))[1], StatusAnswer)
            hostile.send(push_status(2))
            honest.send(push_status(1))
            assert isinstance((await answer(honest))[1], StatusAnswer)
            with pytest.raises(BlockingIOError):  # only the sender waits
                hostile.recv(MAX_PACKET)
            receiver.setblocking(False)
            while await asyncio.get_running_loop().sock_recv(receiver, 1 << 20):
                pass
            assert isinstance((await answer(hostile))[1], StatusAnswer)

    run(tmp_path, authority, scenario)
