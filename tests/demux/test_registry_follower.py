"""Following the registrations of a daemon that is not running, or stops."""

import asyncio
import json
import logging
import socket

import pytest

from handshaked.demux.registry_follower import RegistryFollower
from tests.demux.control import answer
from tests.patience import PATIENCE, soon


@pytest.mark.slow
def test_missing_daemon_is_logged_once(control: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    snapshots: list[object] = []

    async def scenario() -> None:
        following = asyncio.create_task(RegistryFollower(control.getsockname(), snapshots.append).run())
        for _ in range(8):  # enough to reach the longest back-off
            await answer(control, error="not now")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await answer(control, result={"generation": 1, "registrations": [], "more": False})
        await answer(control, error="not now")
        following.cancel()

    asyncio.run(scenario())
    assert len(snapshots) == 1
    assert [record.message for record in caplog.records if record.levelname == "INFO"] == [
        f"following the registrations of {control.getsockname()} again"
    ]


@pytest.mark.parametrize("passes", range(8))
def test_following_can_be_canceled_while_the_daemon_says_that_it_stops(control: socket.socket, passes: int) -> None:
    """As when systemd stops both: after some passes of the event loop, the follower has just received the answer."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        following = asyncio.create_task(RegistryFollower(control.getsockname(), lambda _: None).run())
        sock, _ = await soon(loop.sock_accept(control))
        with sock:
            await soon(loop.sock_recv(sock, 1000))
            sock.send(json.dumps({"error": "the daemon is stopping"}).encode())
            for _ in range(passes):
                await asyncio.sleep(0)
            following.cancel()
            await asyncio.wait([following], timeout=PATIENCE)
        assert following.cancelled()

    asyncio.run(scenario())
