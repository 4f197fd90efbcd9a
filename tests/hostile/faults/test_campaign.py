"""Every system call on storage, sockets and the bus fails once and several times, in each process of a running daemon.

Callers get an answer in time, the log one clear message, and as soon as the fault is over everything works without a
restart. No registration is lost.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from handshaked.testing.daemon import RunningDaemon
from tests.control.bus.running_bus import RunningBus
from tests.hostile.faults.injector import ERRORS, FUNCTIONS, Fault, Injector, Process
from tests.hostile.faults.scene import OK, Scene, check_log

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "cc", "dbus-daemon")]

_BURST = 5
"""So many calls in a row fail in the longest fault: a second's worth of those that are tried again."""
_SINGLE = (1, 2, 3, 5, 8, 13, 21, 34)
"""The calls of a function that fail alone."""


@pytest.fixture(scope="module")
def scene(directory: Path) -> Scene:
    return Scene(directory)


@pytest.fixture(scope="module")
def daemon(directory: Path, injector: Injector, scene: Scene) -> Iterator[RunningDaemon]:
    with ExitStack() as stack:
        bus = stack.enter_context(RunningBus(directory))
        daemon = RunningDaemon(
            directory, workers=1, environment=injector.environment, options=("--no-kernel", f"--bus={bus.address}")
        )
        stack.enter_context(daemon)
        daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
        scene.register_kept(daemon)
        assert scene.recovers(daemon)
        yield daemon


def names(daemon: RunningDaemon) -> list[str]:
    """Return the names of the registrations."""
    return [one["name"] for one in daemon.ask("list")["registrations"]]


def faults(process: Process, function: str, calls: int) -> Iterator[Fault]:
    """Yield the faults of `function`, of which `process` makes so many `calls`."""
    for error in ERRORS[function]:
        for number in _SINGLE:
            if number <= calls:
                yield Fault(process, function, error, number, number)
        yield Fault(process, function, error, 1, _BURST)


def check(daemon: RunningDaemon, scene: Scene, injector: Injector, fault: Fault) -> None:
    """Inject `fault`, and check that the daemon copes."""
    logged = daemon.log.stat().st_size
    with injector.injecting(fault):
        results = scene.play(daemon)
    if results["register"] == OK and results["unregister"] != OK:
        assert "web" in names(daemon)
    daemon.wait_until(lambda: scene.recovers(daemon))
    status = daemon.ask("status")
    check_log(daemon.log.read_bytes()[logged:].decode())
    assert status["worker_restarts"] == 0
    daemon.wait_until(lambda: daemon.ask("status")["bus"].startswith("on the bus"))
    assert names(daemon) == ["kept"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("process", Process, ids=lambda process: process.name.lower())
def test_daemon_survives_each_fault(
    daemon: RunningDaemon, scene: Scene, injector: Injector, process: Process, function: str
) -> None:
    pid, workers = daemon.pid, daemon.worker_pids()
    with injector.counting(process) as calls:
        scene.play(daemon)
    for fault in faults(process, function, calls[function]):
        try:
            check(daemon, scene, injector, fault)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"{fault}: {error}\n{daemon.log.read_text()[-8000:]}") from error
    assert (daemon.ask("status")["pid"], daemon.worker_pids()) == (pid, workers)
