"""Keep a daemon under load while its processes are killed and its certificate is replaced; then count what is left.

    python -m tests.hostile.soak [HANDSHAKES]

Without an argument it runs 200,000 handshakes, of which 30 % are abandoned at random points, with 50 kills of workers,
10 of the parent and 100 replaced certificates; other numbers are scaled. The kills come in the first part. Then
follows a warm-up, and a part in which no process may gain a descriptor, or more than RSS_GROWTH of memory.
"""

import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from handshaked.errors import Status
from handshaked.events import CryptoData, HandshakeComplete
from handshaked.model import Level, Outcome
from handshaked.system.memory import resident_memory
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters
from handshaked.wire.family import push_crypto, push_start
from handshaked.wire.messages import Done
from tests.handshake_channel import PARAMETERS, GoneError, HandshakeChannel, eventually, server_start
from tests.patience import join
from tests.run_name import public_temporary_directory

NAME = "soak.example.com"
HANDSHAKES = 200_000
RSS_GROWTH = 5 << 20
"""Bytes that a process may gain after the warm-up."""
_ABANDONED = 0.3
_PER_CONNECTION = 50
_LOADERS = 4
_KILLED_PART, _WARM_UP_PART = 0.5, 0.15


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of handshakes and of each disturbance."""

    handshakes: int
    replacements: int
    worker_kills: int
    parent_kills: int

    @classmethod
    def of(cls, handshakes: int) -> "Plan":
        """Return a plan in proportion to that of HANDSHAKES."""
        share = handshakes / HANDSHAKES
        return cls(handshakes, *(max(2, round(share * full)) for full in (100, 50, 10)))


@dataclass(slots=True)
class Report:
    """Results: handshakes by their end, and the seconds from each kill until the service was whole again."""

    ends: Counter[str] = field(default_factory=Counter)
    after_worker: list[float] = field(default_factory=list)
    after_parent: list[float] = field(default_factory=list)
    growth: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))]
        for name, seconds in (("a worker", self.after_worker), ("the parent", self.after_parent)):
            ordered = sorted(seconds)
            lines.append(
                f"back after a kill of {name}: p50 {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s"
                f" ({len(ordered)} kills)"
            )
        lines += [f"memory gained by {name}: {grown / 2**20:+.2f} MiB" for name, grown in self.growth.items()]
        return "\n".join(lines)


class Load:
    """Threads that complete and abandon `handshakes`. Only connections opened before one of `kills` may be lost."""

    def __init__(self, daemon: RunningDaemon, handshakes: int, report: Report, kills: list[float]) -> None:
        self.begun = 0
        self._daemon, self._handshakes, self._report, self._kills = daemon, handshakes, report, kills
        self._lock = threading.Lock()
        self._never = threading.Event()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(_LOADERS)]

    def run(self, *actions: Callable[[], None]) -> None:
        """Run the load, and each of `actions` at its share of the handshakes."""
        for thread in self._threads:
            thread.start()
        for number, action in enumerate(actions, 1):
            self._reach(number * self._handshakes // (len(actions) + 1))
            action()
        self._reach(self._handshakes)
        join(*self._threads)
        assert not self.failures, self.failures[:5]

    def _reach(self, count: int) -> None:
        """Wait until `count` handshakes have begun; AssertionError if none begins for a while."""
        while self.begun < count and not self.failures:
            before = self.begun
            assert eventually(lambda before=before: self.begun > before or bool(self.failures)), "the load stands still"

    def _take(self) -> bool:
        with self._lock:
            self.begun += 1
            return self.begun <= self._handshakes and not self.failures

    def _count(self, end: str) -> None:
        with self._lock:
            self._report.ends[end] += 1

    def _run(self, seed: int) -> None:
        chance = random.Random(f"{seed} {self._handshakes}")
        while self._take():
            opened = time.monotonic()
            try:
                with HandshakeChannel(self._daemon.handshake_socket) as channel:
                    self._use(channel, chance)
            except (GoneError, OSError) as error:
                if not any(opened <= killed for killed in self._kills):
                    self.failures.append(f"a connection that no kill explains was lost: {error!r}")
                self._count("lost or refused after a kill")
                self._never.wait(0.05)  # the parent may be down
            except Exception as error:
                self.failures.append(repr(error))
                raise

    def _use(self, channel: HandshakeChannel, chance: random.Random) -> None:
        for sequence in range(1, _PER_CONNECTION + 1):
            if chance.random() < _ABANDONED:
                if abandon(channel, sequence, chance):
                    self._count("abandoned, connection closed")
                    return
                self._count("abandoned")
            else:
                complete(channel, sequence)
                self._count("completed")
            if sequence < _PER_CONNECTION and not self._take():
                return


def hello() -> tuple[ClientHandshake, bytes]:
    """Return a client and its ClientHello."""
    client = ClientHandshake(ClientParameters((b"h3",), NAME, PARAMETERS, verifier=None))
    return client, b"".join(event.data for event in client.start(time.time()) if isinstance(event, CryptoData))


def flight_of(channel: HandshakeChannel, sequence: int, client: ClientHandshake) -> tuple[bytes, bytes]:
    """Return the client's answer to the server's flight, and the server's certificate."""
    answer = leaf = b""
    while not answer:
        channel.receive()
        messages, channel.inbox[sequence] = channel.inbox[sequence], []
        for message in messages:
            if isinstance(message, Done):
                succeeded(message.outcome)
                raise AssertionError("a handshake succeeded before the client's Finished")
            if not isinstance(message, CryptoData):
                continue
            for event in client.receive(message.level, message.data, time.time()):
                if isinstance(event, CryptoData):
                    answer += event.data
                elif isinstance(event, HandshakeComplete):
                    leaf = event.peer_certificates[0]
    return answer, leaf


def complete(channel: HandshakeChannel, sequence: int) -> bytes:
    """Complete a handshake; return the server's certificate."""
    client, first = hello()
    channel.send(push_start(sequence, server_start()) + push_crypto(sequence, CryptoData(Level.INITIAL, first)))
    answer, leaf = flight_of(channel, sequence, client)
    channel.send(push_crypto(sequence, CryptoData(Level.HANDSHAKE, answer)))
    succeeded(channel.outcome(sequence))
    return leaf


def succeeded(outcome: Outcome) -> None:
    """Check that a handshake succeeded; GoneError if its worker ends, as those of a killed parent do."""
    if outcome.status == Status.SHUTTING_DOWN:
        raise GoneError
    assert outcome.status == 0, outcome


def abandon(channel: HandshakeChannel, sequence: int, chance: random.Random) -> bool:
    """Leave a handshake at a random point; return whether the connection has to be closed."""
    client, first = hello()
    point = chance.randrange(5)
    start = push_start(sequence, server_start())
    if point == 0:
        channel.send(start)
    elif point == 1:
        channel.send(start + push_crypto(sequence, CryptoData(Level.INITIAL, first[: chance.randrange(len(first))])))
    else:
        channel.send(start + push_crypto(sequence, CryptoData(Level.INITIAL, first)))
    if point >= 3:
        answer, _ = flight_of(channel, sequence, client)
        if point == 4:
            wrong = answer[:-1] + bytes([answer[-1] ^ 1])
            channel.send(push_crypto(sequence, CryptoData(Level.HANDSHAKE, wrong)))
            assert channel.outcome(sequence).status != 0
            return False
    return chance.random() < 0.5


class Soak:
    """One run of `plan` against `daemon`."""

    def __init__(self, daemon: RunningDaemon, authority: Authority, plan: Plan) -> None:
        self.report = Report()
        self._daemon, self._authority, self._plan = daemon, authority, plan
        self._kills: list[float] = []
        issued = authority.issue(NAME, file_name="soak")
        daemon.register("soak", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])

    def run(self) -> Report:
        """Run all parts; AssertionError if anything is lost that no kill explains, or kept."""
        plan = self._plan
        kills = [self._kill_worker] * plan.worker_kills + [self._kill_parent] * plan.parent_kills
        actions = [*kills, *[self._replace] * (plan.replacements // 2)]
        random.Random(plan.handshakes).shuffle(actions)
        self._load(_KILLED_PART, *actions)
        self._load(_WARM_UP_PART)
        before = self._usage()
        self._load(1 - _KILLED_PART - _WARM_UP_PART, *[self._replace] * (plan.replacements - plan.replacements // 2))
        self._compare(before)
        return self.report

    def _load(self, share: float, *actions: Callable[[], None]) -> None:
        Load(self._daemon, int(share * self._plan.handshakes), self.report, self._kills).run(*actions)

    def _kill_worker(self) -> None:
        """Kill a worker; all workers must answer again, and a handshake succeed."""
        victim = random.choice(self._daemon.worker_pids())
        with self._killing():
            os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        self._daemon.wait_until(lambda: len(pids := self._daemon.worker_pids()) == 2 and victim not in pids)
        self.report.after_worker.append(time.monotonic() - killed)

    def _kill_parent(self) -> None:
        """Kill the parent and start it again, as a service manager does."""
        killed = time.monotonic()
        with self._killing():  # connections are refused until it serves again
            self._daemon.stop(signal.SIGKILL)
            self._daemon.start()
        self.report.after_parent.append(time.monotonic() - killed)

    @contextmanager
    def _killing(self) -> Iterator[None]:
        """Note that connections opened before the end of this block may be lost."""
        self._kills.append(math.inf)
        yield
        self._kills[-1] = time.monotonic()

    def _replace(self) -> None:
        """Replace the certificate's files; it must be served."""
        issued = self._authority.issue(NAME, file_name="soak")
        self._daemon.ask("reload")
        leaf = issued.leaf.public_bytes(Encoding.DER)
        assert eventually(lambda: self._served() == leaf), "the replaced certificate is not served"

    def _served(self) -> bytes:
        with suppress(GoneError, OSError), HandshakeChannel(self._daemon.handshake_socket) as channel:
            return complete(channel, 1)
        return b""

    def _usage(self) -> dict[int, tuple[str, int, int]]:
        """Return name, descriptors and resident bytes of each process, by pid, once all connections are closed."""
        parent, *workers = self._daemon.pid, *sorted(self._daemon.worker_pids())
        names = {parent: "the parent", **{pid: f"worker {number}" for number, pid in enumerate(workers)}}
        return {pid: (name, descriptors(pid), resident_memory(pid)) for pid, name in names.items()}

    def _compare(self, before: dict[int, tuple[str, int, int]]) -> None:
        after = self._usage()
        assert after.keys() == before.keys(), "a process was replaced that nobody killed"
        for pid, (name, count, size) in before.items():
            assert eventually(lambda pid=pid, count=count: descriptors(pid) <= count), f"{name} has kept descriptors"
            self.report.growth[name] = after[pid][2] - size
        assert not zombies(self._daemon.pid), "dead children that the parent has not waited for"


def descriptors(pid: int) -> int:
    """Return how many descriptors the process `pid` has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def zombies(parent: int) -> list[int]:
    """Return the dead children of `parent`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    states = {int(pid): Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in children}
    return [pid for pid, state in states.items() if state == "Z"]


def main() -> None:
    """Run the soak and print its report."""
    plan = Plan.of(int(sys.argv[1]) if len(sys.argv) > 1 else HANDSHAKES)
    print(plan)
    with public_temporary_directory() as directory, RunningDaemon(directory) as daemon:
        report = Soak(daemon, Authority(directory), plan).run()
    print(report)
    assert max(report.growth.values()) <= RSS_GROWTH, "a process has gained too much memory"


if __name__ == "__main__":
    main()
