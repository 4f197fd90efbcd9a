"""The identity of a Unix socket's peer."""

import asyncio
import os
import socket

import pytest

from handshaked.callers.identity import caller_of
from handshaked.callers.log_limit import LogLimit

MANY = list(range(70_000, 70_300))


@pytest.mark.needs("root")
def test_caller_with_too_many_groups_has_its_primary_one_and_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = os.getgroups()
    os.setgroups(MANY)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    finally:
        os.setgroups(before)

    async def scenario() -> None:
        limit = LogLimit(lines=3)
        assert [caller_of(ours, limit).gids for _ in range(10)] == [{os.getgid()}] * 10

    with ours, theirs:
        asyncio.run(scenario())
    assert len(caplog.messages) == 3
    assert all("supplementary groups are ignored" in line for line in caplog.messages)
