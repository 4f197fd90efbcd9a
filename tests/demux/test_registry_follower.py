"""Following the registrations of a daemon that is not running."""

import asyncio
import logging
import socket

import pytest

from handshaked.demux.registry_follower import RegistryFollower
from tests.demux.control import answer


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
