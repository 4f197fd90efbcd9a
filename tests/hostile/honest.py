"""Measure what an attack by one uid costs an honest caller of another.

    @pytest.mark.slow
    @pytest.mark.needs("root", "public python")
    def test_..(hostile_daemon: RunningDaemon) -> None:
        compare(hostile_daemon.directory, honest_handshakes, attack).check()

``hostile_daemon`` runs with two workers as the ordinary user DAEMON. It serves the registration ``honest``, which
HONEST may use; grant ATTACKER what the attack needs. Honest caller and attacker are functions of a module, each run in
a process of its own:

* ``honest_..(directory, underway)`` connects and returns the operation to measure, which raises an error if it fails.
  There are ``honest_handshakes`` and ``honest_status``; write others for other sockets.
* ``attack(directory, underway)`` calls `underway` when the attack has begun, and continues until it is killed. Only the
  time after that call is measured. An attacker that ends early fails the comparison.

Short phases without and with the attack alternate in one run, after a warm-up, so that other work on the machine
disturbs both alike. The honest caller must recover after every attack, so that a phase without it is not slowed by
what the last attack left behind. ``check`` fails if, in more than half of the rounds, the p99 with the attack is above
LIMIT times the p99 without it, and above its floor in FLOORS, or likewise the mean, which busy machines disturb less;
or if any operation takes longer than LONGEST.

On a system, the scheduler divides the processors among the daemon's service and the slices of the users (cgroups), so
that nobody starves others of processor time, and whoever uses little is served first. Here, priorities do that: the
attacker's is the lowest, then come the daemon and other services, and the honest caller's is the highest. So only what
these do for the attacker delays the honest caller. Where that is allowed, all are above everything else on the machine.

Tests of comparisons are marked `alone` and `slow`. ``python -m tests.hostile.compare NAME ..`` repeats them for longer
without FLOORS, and prints the figures, for machines that have nothing else to do.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair
from statistics import fmean, median

from handshaked.control.client import ControlClient
from handshaked.shim import BlockingClient
from handshaked.system import directories
from handshaked.testing.processes import ending
from handshaked.wire.json_packets import receive_message, send_message
from tests.control.handshakes import NAME, handshake, verifier
from tests.patience import PATIENCE
from tests.plugins.needs import public_python

DAEMON, HONEST, ATTACKER = 3001, 3002, 3003
LIMIT = 3.0
FLOORS = {"mean": 0.02, "p99": 0.25}
"""Seconds: what scheduling can cost on a machine with ten times the work that it can do."""
EXACT = bool(os.environ.get("HANDSHAKED_HOSTILE_EXACT"))
"""True on machines that have nothing else to do: no floors apply, and all rounds count as one."""
RECOVERED = 0.005
"""Seconds: whoever is as fast has recovered."""
LONGEST = 1.0
"""Seconds. A bound on every operation: nobody waits until an attacker is content."""
ROUNDS = int(os.environ.get("HANDSHAKED_HOSTILE_ROUNDS", "5"))
SECONDS = 1.0 if EXACT else 0.5
"""Of each phase."""
NICE = 10
"""Levels between two priorities: ten are a tenth of the processor time, see sched(7)."""
PRIORITIES = {"honest": -2 * NICE, "daemon": -NICE, "attacker": 0}
AUTOGROUP = Path("/proc/self/autogroup")
"""The nice value of this session, of which the scheduler may make a group of its own."""
WARM_UP_SECONDS = 1.0
ROOT = Path(__file__).parents[2]
TRUST = "trust.pem"

Attack = Callable[[Path, Callable[[], None]], None]
Honest = Callable[[Path, Callable[[], None]], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latencies of the honest caller in seconds, by alternating phases ``without`` the attack and ``under`` it."""

    without: list[list[float]] = field(default_factory=list)
    under: list[list[float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The p99 of all operations under the attack divided by that of all without it."""
        return p99(list(chain(*self.under))) / p99(list(chain(*self.without)))

    def check(self) -> None:
        """Raise AssertionError if the attack costs the honest caller too much."""
        rounds = list(zip(self.without, self.under, strict=True))
        if EXACT:  # nothing disturbs a round, so all are one: the p99 of a single one is little more than its maximum
            rounds = [(list(chain(*self.without)), list(chain(*self.under)))]
        for name, figure in (("mean", fmean), ("p99", p99)):
            slow = [figure(under) > largest(figure(without), name) for without, under in rounds]
            assert 2 * sum(slow) <= len(slow), f"{name}: {self}"
        assert max(map(max, self.under)) <= max(LONGEST, *map(max, self.without)), f"longest: {self}"

    def __str__(self) -> str:
        figures = (
            f"p50 {1e3 * median(chain(*phases)):.1f} ms, mean {1e3 * fmean(chain(*phases)):.1f} ms,"
            f" p99 {1e3 * p99(list(chain(*phases))):.1f} ms, longest {1e3 * max(map(max, phases)):.1f} ms"
            f" ({sum(map(len, phases))} operations)"
            for phases in (self.without, self.under)
        )
        return "without the attack {}; under attack {}".format(*figures) + f"; ratio of p99: {self.ratio:.1f}"


def compare(
    directory: Path,
    honest: Honest,
    attack: Attack,
    *,
    honest_user: int = HONEST,
    attacker: int = ATTACKER,
    services: Iterable[int] = (),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> Comparison:
    """Run `honest` as `honest_user` in alternating phases without and with `attack` of the user `attacker`.

    `directory` is passed to both. `services` are processes between them and the daemon, which get its priority.
    `rounds` and `seconds`, of each phase, are for tests, which must not take long. A failed operation of the honest
    caller raises AssertionError.
    """
    if EXACT:
        rounds, seconds = ROUNDS, SECONDS
    found = Comparison()
    nice = prioritize(os.stat(directory).st_uid, services)
    with process(honest_user, honest, directory, nice["honest"]) as caller, session_prioritized():
        measure(caller, WARM_UP_SECONDS)
        for _ in range(rounds):
            found.without.append(measure(caller, seconds))
            with process(attacker, attack, directory, nice["attacker"]):
                found.under.append(measure(caller, seconds))
            recover(caller, found)
    print(found)
    return found


def prioritize(daemon: int, services: Iterable[int]) -> dict[str, int]:
    """Set the priority of the processes of the user `daemon`, unless that is root; return the nice values of all.

    The processes `services` get the same one.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice = {"honest": own, "daemon": min(own + NICE, 19), "attacker": 19}
    if daemon:
        try:
            os.setpriority(os.PRIO_USER, daemon, PRIORITIES["daemon"])
        except PermissionError:  # in a container without CAP_SYS_NICE: all others can be lowered only
            os.setpriority(os.PRIO_USER, daemon, nice["daemon"])
        else:
            nice = PRIORITIES
        for service in services:
            os.setpriority(os.PRIO_PROCESS, service, nice["daemon"])
    return nice


@contextmanager
def session_prioritized() -> Iterator[None]:
    """Raise this session above others for the block, if the scheduler groups sessions and that is allowed."""
    before = autogroup_nice()
    try:
        if before is not None:
            AUTOGROUP.write_text(str(PRIORITIES["honest"]))
    except OSError:
        before = None
    try:
        yield
    finally:
        if before is not None:
            AUTOGROUP.write_text(before)


def autogroup_nice() -> str | None:
    """Return the nice value of this session; None if it is in no group, as in a cgroup: the file is empty there."""
    try:
        return next(reversed(AUTOGROUP.read_text().split()), None)
    except OSError:
        return None


def measure(caller: socket, seconds: float) -> list[float]:
    """Return the latencies of the operations of `caller` in `seconds`."""
    send_message(caller, {"seconds": seconds})
    received = receive_message(caller)
    assert received is not None, "an operation of the honest caller failed; its traceback is on standard error"
    return received[0]["latencies"]


def recover(caller: socket, found: Comparison) -> None:
    """Let `caller` operate until it is as fast as without the attack; AssertionError if it is not in time."""
    deadline = time.monotonic() + PATIENCE
    limit = max(LIMIT * median(map(fmean, found.without)), RECOVERED)
    while (mean := fmean(measure(caller, WARM_UP_SECONDS / 4))) > limit:
        assert time.monotonic() < deadline, f"{mean:g} s per operation long after the attack; {found}"


@contextmanager
def process(user: int, function: Attack | Honest, directory: Path, nice: int = 0) -> Iterator[socket]:
    """Run `function` as `user` with the priority `nice`; yield the channel to its process once it is underway."""
    name = f"{function.__module__}:{function.__qualname__}"
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    with ours:
        ours.settimeout(2 * PATIENCE)
        with theirs:
            running = subprocess.Popen(
                [str(public_python()), "-m", "tests.hostile.caller", name, str(directory), str(theirs.fileno())],
                user=user, group=user, extra_groups=[], pass_fds=[theirs.fileno()], env=environment(), cwd="/",
            )  # fmt: skip
        with ending(running):
            os.setpriority(os.PRIO_PROCESS, running.pid, nice)
            assert receive_message(ours) is not None, f"{name} did not begin; its traceback is on standard error"
            yield ours
            assert running.poll() is None, f"{name} ended early"
            running.kill()


def environment() -> dict[str, str]:
    """Return the environment in which ``public_python`` finds this project and its dependencies."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


def largest(without: float, name: str) -> float:
    """Return the largest value of the figure `name` that is right under an attack, for its value `without` it."""
    return max(LIMIT * without, 0.0 if EXACT else FLOORS[name])


def p99(latencies: list[float]) -> float:
    """Return the latency that one operation in a hundred exceeds."""
    return percentile(latencies, 0.99)


def percentile(latencies: list[float], share: float) -> float:
    """Return the smallest latency that `share` of all do not exceed."""
    return sorted(latencies)[math.ceil(share * len(latencies)) - 1]


def honest_handshakes(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that connects and completes a handshake with the registration ``honest``."""
    verify = verifier(directory / TRUST)

    def operation() -> None:
        with BlockingClient(directory / "run" / directories.HANDSHAKE_SOCKET) as channel:
            outcome, _ = handshake(channel, NAME, b"h3", verify)
        assert outcome.status == 0, outcome

    return operation


def honest_status(directory: Path, _: Callable[[], None]) -> Callable[[], object]:
    """Return an operation that connects to the control socket and asks for the daemon's status."""

    def operation() -> None:
        with ControlClient(directory / "run" / directories.CONTROL_SOCKET) as client:
            client.ask("status", {})

    return operation
