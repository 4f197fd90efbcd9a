"""The event loop cannot watch a socket: epoll_ctl(2) fails for want of memory, or of watches."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handshaked.datapath.driver import Attempt
from handshaked.errors import Status
from handshaked.model import Outcome, Role
from handshaked.testing.authority import Authority
from tests.conftest import Issue
from tests.datapath.tcp_scene import NAME, OpenSsl, client_context, connected

LOOP_CALLS = ("add_reader", "add_writer")


@contextmanager
def unwatchable(name: str, error: int) -> Iterator[None]:
    """Let the function `name` of the event loop fail with `error` for the sockets of handshakes."""
    loop = asyncio.get_running_loop()
    real = getattr(loop, name)

    def fail(sock: Any, call: Callable[..., object], *arguments: Any) -> object:
        if isinstance(getattr(call, "__self__", None), Attempt):
            raise OSError(error, os.strerror(error))
        return real(sock, call, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, name, fail)
        yield


def check(outcomes: list[Outcome], error: int, kind: str, log: str) -> None:
    """Fail unless the only outcome, and nothing else, says why."""
    [outcome] = outcomes
    assert (outcome.status, outcome.reason) == (Status.FAILED, f"the {kind} socket failed: {os.strerror(error)}")
    assert "unexpected" not in log


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
@pytest.mark.parametrize("call", LOOP_CALLS)
def test_tcp_socket_that_cannot_be_watched_fails_the_handshake(
    authority: Authority, issue: Issue, caplog: pytest.LogCaptureFixture, call: str, error: int
) -> None:
    names = [f"{os.urandom(30).hex()}.example.com" for _ in range(400)]
    long = authority.issue(NAME, *names, file_name="tcp-unwatchable")

    async def scenario() -> None:
        async with connected(authority, issue, served=long, narrow=True) as (made, ours, theirs):
            client = OpenSsl(client_context(authority), theirs, NAME)
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            client.flush()  # and read nothing, so that the server's flight does not fit its socket
            with unwatchable(call, error):
                assert (await made.submit(ours, Role.SERVER)).status
            assert not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "its setting is not restored"
            check(made.outcomes, error, "TCP", caplog.text)
            assert len(made.family.reports) == 1

    asyncio.run(scenario())
