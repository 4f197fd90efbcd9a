"""Limits on the connections of local users, and recovery from a lack of file descriptors."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.closing import Closer
from handshaked.callers.log_limit import LogLimit
from handshaked.model import Caller
from tests.handshake_channel import user
from tests.patience import soon

USER, OTHER = 54321, 54322


class Listener(socket.socket):
    """A listener with an event for its second failed ``accept``."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.failures = 0
        self.failed_twice = asyncio.Event()

    def accept(self) -> tuple[socket.socket, object]:
        try:
            return super().accept()
        except OSError:
            self.failures += 1
            if self.failures == 2:
                self.failed_twice.set()
            raise


class Scene:
    """A listener, its acceptor, and the callers that were accepted."""

    def __init__(self, stack: ExitStack, bounds: ConnectionBounds) -> None:
        self._stack = stack
        self.listener = stack.enter_context(Listener())
        self.listener.bind(f"\0handshaked-test-{os.getpid()}-{id(self)}")
        self.listener.listen()
        self.accepted: list[Caller] = []
        self.settled = asyncio.Event()
        self.acceptor = Acceptor(self.listener, "the test", bounds, LogLimit(), Closer(), self._take, [PRIVILEGED])
        self.acceptor.start()

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        self._stack.enter_context(sock)
        self.accepted.append(caller)
        self.settled.set()

    def connect(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.connect(self.listener.getsockname())
        return sock

    async def connect_as(self, uid: int) -> bool:
        """Return whether a connection of `uid` is accepted."""
        with user(uid):
            sock = self.connect()
        before = len(self.accepted)
        self.settled.clear()
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, self.settled.set)  # the end, if it is refused
        await soon(self.settled.wait())
        loop.remove_reader(sock)
        return len(self.accepted) > before


USERS = range(30_001, 30_041)
PRIVILEGED = 30_100


def run(bounds: ConnectionBounds, scenario: Callable[[Scene], object]) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            scene = Scene(stack, bounds)
            await scenario(scene)  # type: ignore[misc] # a coroutine
            scene.acceptor.stop()

    asyncio.run(main())


@pytest.mark.needs("root")
def test_connections_of_a_user_are_limited_until_released() -> None:
    async def scenario(scene: Scene) -> None:
        assert [await scene.connect_as(USER) for _ in range(3)] == [True, True, False]
        assert await scene.connect_as(OTHER)
        scene.acceptor.release(Caller(USER))
        assert [await scene.connect_as(USER) for _ in range(2)] == [True, False]

    run(ConnectionBounds(total=20, per_user=2, reserve=0), scenario)


@pytest.mark.needs("root")
def test_many_greedy_users_leave_connections_for_others() -> None:
    async def scenario(scene: Scene) -> None:
        for uid in [*USERS[:8]] * 10:
            await scene.connect_as(uid)
        assert [sum(caller.uid == uid for caller in scene.accepted) for uid in USERS[:8]] == [8] * 8
        assert [await scene.connect_as(uid) for uid in USERS[8:]] == [True] * len(USERS[8:])

    run(ConnectionBounds(total=138, per_user=20, reserve=10), scenario)


@pytest.mark.needs("root")
@pytest.mark.parametrize("uid", [0, PRIVILEGED])
def test_privileged_users_have_a_reserve(uid: int) -> None:
    async def scenario(scene: Scene) -> None:
        for other in USERS:
            await scene.connect_as(other)
        assert len(scene.accepted) == 3
        assert [await scene.connect_as(uid) for _ in range(3)] == [True, True, False]

    run(ConnectionBounds(total=5, per_user=4, reserve=2), scenario)


@pytest.mark.needs("root")
def test_subordinate_uids_share_their_owners_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.callers.identity.owner_of", lambda uid: USERS[0] if uid in USERS else uid)

    async def scenario(scene: Scene) -> None:
        assert [await scene.connect_as(uid) for uid in USERS[:3]] == [True, True, False]
        assert await scene.connect_as(OTHER)
        scene.acceptor.release(scene.accepted[1])
        assert await scene.connect_as(USERS[3])

    run(ConnectionBounds(total=20, per_user=2, reserve=0), scenario)


def test_lack_of_descriptors_is_waited_out_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(scene: Scene) -> None:
        scene.connect()
        old = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, old[1]))
        await soon(scene.listener.failed_twice.wait())
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
        assert scene.accepted == []
        await soon(scene.settled.wait())

    run(ConnectionBounds(total=5, per_user=4, reserve=0), scenario)
    lines = [record.getMessage() for record in caplog.records if record.name == "handshaked.callers.acceptor"]
    assert len(lines) == 2, lines
    assert lines[0].startswith("cannot accept connections to the test for now: ")
    assert lines[1] == "connections to the test are accepted again"


def test_connection_of_an_unknown_caller_is_closed_as_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that it has sent may linger: closing one in the event loop would stop everything."""
    closed: list[socket.socket] = []

    def fail(*_: object) -> Caller:
        raise OSError("the kernel has no memory for credentials")

    def close(self: Closer, caller: object, sock: socket.socket) -> None:
        closed.append(sock)
        sock.close()

    async def scenario(scene: Scene) -> None:
        monkeypatch.setattr("handshaked.callers.acceptor.caller_of", fail)
        monkeypatch.setattr(Closer, "close_socket", close)
        assert not await scene.connect_as(os.geteuid())
        assert len(closed) == 1

    run(ConnectionBounds(total=5, per_user=4, reserve=0), scenario)
