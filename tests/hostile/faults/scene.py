"""The steps of the fault campaign with a daemon, and the checks afterwards."""

import shutil
from collections.abc import Callable
from pathlib import Path

from handshaked.errors import RefusedError, Status
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from tests.handshake_channel import GoneError, HandshakeChannel, client_start, server_start, shake_hands
from tests.hostile.faults.injector import Fault, Injector

NAME = "a.example.com"
OK = "ok"
_MAX_LINES = 5
_MAX_PLAYS = 5
"""So many times the scene is played until it has met a fault: not all calls occur each time."""


class Scene:
    """Registers, shakes hands, renews and unregisters; ``kept`` is a registration that must never be lost."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self._issued = [authority.issue(NAME, file_name=name) for name in ("first", "second")]
        self._pair = (directory / "certificate.pem", directory / "key.pem")
        self._put_next()

    def register_kept(self, daemon: RunningDaemon) -> None:
        """Register ``kept``."""
        one = self._issued[0]
        daemon.register("kept", (one.certificate, one.key), alpns=["kept"], server_names=[NAME], replace=True)

    def play(self, daemon: RunningDaemon) -> dict[str, str]:
        """Return the result of each step: OK, or the error that its caller got."""
        return {
            "register": attempt(lambda: daemon.register("web", self._pair, alpns=["h3"], server_names=[NAME])),
            "handshake": attempt(lambda: shake(daemon, b"h3")),
            "renew": attempt(lambda: self._renew(daemon)),
            "handshake with kept": attempt(lambda: shake(daemon, b"kept")),
            "unregister": attempt(lambda: daemon.ask("unregister", name="web")),
        }

    def recovers(self, daemon: RunningDaemon) -> bool:
        """Return whether everything succeeds; leave no registration but ``kept`` behind."""
        attempt(lambda: daemon.ask("unregister", name="web"))
        return set(self.play(daemon).values()) == {OK}

    def _renew(self, daemon: RunningDaemon) -> None:
        self._put_next()
        errors = daemon.ask("reload")["errors"]
        if errors:
            raise RefusedError("; ".join(errors))

    def _put_next(self) -> None:
        self._issued.reverse()
        for source, target in zip((self._issued[0].key, self._issued[0].certificate), self._pair[::-1], strict=True):
            shutil.copy(source, target)


def attempt(step: Callable[[], object]) -> str:
    """Return OK, or the error of `step` for its caller. A timeout is none: nothing may hang."""
    try:
        step()
    except (RefusedError, GoneError, ConnectionError) as error:
        answer = f"{type(error).__name__}: {error}"
    else:
        return OK
    assert "timed out" not in answer, answer
    return answer


def shake(daemon: RunningDaemon, alpn: bytes) -> None:
    """Shake hands; RefusedError with the statuses of a failure."""
    with HandshakeChannel(daemon.handshake_socket) as channel:
        client, server = shake_hands(channel, 100, 101, client_start(NAME, alpn), server_start())
    if (client.status, server.status) != (Status.OK, Status.OK):
        raise RefusedError(f"client {client.status} {client.reason}, server {server.status} {server.reason}")


def check_log(log: str) -> None:
    """Fail if the daemon says too much about a fault; each handshake that fails has a line of its own."""
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if (" ERROR " in line or " WARNING " in line) and "outcome=" not in line]
    assert len(lines) <= _MAX_LINES, "\n".join(lines)


def names(daemon: RunningDaemon) -> list[str]:
    """Return the names of the registrations."""
    return [one["name"] for one in daemon.ask("list")["registrations"]]


def check(daemon: RunningDaemon, scene: Scene, injector: Injector, fault: Fault) -> None:
    """Inject `fault`, and check that the daemon copes."""
    logged = daemon.log.stat().st_size
    with injector.injecting(fault) as injected:
        results = scene.play(daemon)
        for _ in range(1, _MAX_PLAYS):
            if not injected():
                results = scene.play(daemon)
        assert injected(), f"not met in {_MAX_PLAYS} plays"
    if results["register"] == OK and results["unregister"] != OK:
        assert "web" in names(daemon)
    daemon.wait_until(lambda: scene.recovers(daemon))
    status = daemon.ask("status")
    check_log(daemon.log.read_bytes()[logged:].decode())
    assert status["worker_restarts"] == 0
    daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
    assert names(daemon) == ["kept"]
