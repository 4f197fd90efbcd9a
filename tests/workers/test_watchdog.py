"""The watchdog: systemd is notified of successful self-tests only."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from handshaked.errors import UnavailableError
from handshaked.workers.watchdog import NOT_YET, Watchdog

FAILURE = "server: no answer"


@pytest.fixture
def notifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return a socket in the place of systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def beat(results: list[str | None], notifications: socket.socket) -> tuple[list[str], list[str], int]:
    """Run the watchdog once for each result of a self-test; return its states, the notifications, and its checks."""
    states, received, checks = [], [], 0

    async def self_test() -> str | None:
        return results.pop(0)

    async def check() -> None:
        nonlocal checks
        checks += 1

    async def run() -> None:
        watchdog = Watchdog(self_test, check)
        states.append(watchdog.state)
        while results:
            await watchdog.beat()
            states.append(watchdog.state)
            with suppress(BlockingIOError):
                while True:
                    received.append(notifications.recv(4096).decode())

    asyncio.run(run())
    return states, received, checks


def test_success_is_reported_to_systemd(notifications: socket.socket) -> None:
    assert beat([None, None], notifications) == ([NOT_YET, "ok", "ok"], ["WATCHDOG=1", "WATCHDOG=1"], 2)


def test_failure_is_reported_as_status_only(notifications: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    states, received, _ = beat([FAILURE, FAILURE], notifications)
    assert states == [NOT_YET, FAILURE, FAILURE]
    assert received == [f"STATUS=the self-test failed: {FAILURE}"] * 2
    assert caplog.messages == [f"the self-test failed: {FAILURE}"], "the same failure is logged once"


def test_recovery_is_reported(notifications: socket.socket) -> None:
    states, received, _ = beat([FAILURE, None], notifications)
    assert states[-1] == "ok"
    assert received[-1] == "WATCHDOG=1\nSTATUS=the self-test succeeds again"


def test_start_fails_with_the_third_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handshaked.workers.watchdog._PAUSE_SECONDS", 0.0)

    async def start(*results: str | None) -> int:
        remaining = list(results)

        async def self_test() -> str | None:
            return remaining.pop(0)

        async def check() -> None: ...

        await Watchdog(self_test, check).first_beat()
        return len(remaining)

    assert asyncio.run(start(FAILURE, FAILURE, None, FAILURE)) == 1
    with pytest.raises(UnavailableError, match=f"the self-test failed 3 times: {FAILURE}"):
        asyncio.run(start(FAILURE, FAILURE, FAILURE))
