"""Supervises the workers: starts and restarts them, and publishes new snapshots to them."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from handshaked.errors import is_temporary
from handshaked.registry.snapshot import Snapshot
from handshaked.system.capabilities import CAPSET_ADVICE
from handshaked.system.memory_file import memory_file
from handshaked.system.tasks import Tasks
from handshaked.wire.json_packets import Message
from handshaked.workers.backoff import MAX_FAILED_STARTS, Backoff
from handshaked.workers.worker_channel import WorkerChannel

log = logging.getLogger(__name__)

_HUNG_SECONDS = 15.0  # longer than a worker waits on a busy machine, and longer than callers wait
_STOP_SECONDS = 15.0
_KILLED_SECONDS = 5.0  # a process may be in an uninterruptible system call, such as one on a file system that hangs


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a worker, or the reason for which none was started."""

    text: str
    served: bool = False
    failed: bool = False
    """True if it could not start, and trying again will not help."""


class _Worker:
    """A worker process and the channel to it, `sock`."""

    def __init__(
        self, process: Process, sock: socket.socket, ready: asyncio.Event, on_outcomes: Callable[[Message], None]
    ) -> None:
        self.process = process
        self._ready = ready
        self._on_outcomes = on_outcomes
        self.generation = -1
        self.channel = WorkerChannel(sock, self._on_event, self._on_violation)

    def send(self, command: str) -> None:
        """Send `command`, which has no answer."""
        try:
            self.channel.send(command)
        except OSError as error:
            log.debug("cannot send worker %d the command %s: %s", self.process.pid, command, error)

    def configure(self, settings: bytes) -> None:
        """Let the worker use `settings`. A worker that cannot receive them is replaced."""
        try:
            with memory_file(settings) as file:
                self.channel.send("configure", (file.fileno(),))
        except OSError as error:
            log.warning("worker %d does not receive the new settings and is killed: %s", self.process.pid, error)
            self.kill()

    def kill(self) -> None:
        """Kill the process, unless it has just ended by itself."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def _on_violation(self, reason: str) -> None:
        """Kill the process: its code sends no malformed messages, so it is compromised, or its memory is damaged."""
        log.error("worker %d has sent a malformed message and is killed: %s", self.process.pid, reason)
        self.kill()

    def _on_event(self, message: Message) -> None:
        if message["event"] == "outcomes":
            self._on_outcomes(message)
        elif message["event"] in ("ready", "refreshed"):
            self.generation = message["generation"]
            self._ready.set()


class Supervisor:
    """Runs `count` workers that share `listener`, each started with `arguments`.

    `own_sockets` are those that only one worker gets: the first worker the first ones, by the names of its arguments.
    `on_outcomes` is called with each batch of their outcomes, `give_up` with the reason if no worker can start.
    """

    def __init__(
        self,
        listener: socket.socket,
        count: int,
        arguments: Sequence[str],
        on_outcomes: Callable[[Message], None],
        give_up: Callable[[str], object],
        own_sockets: Sequence[Mapping[str, socket.socket]] = (),
    ) -> None:
        self._listener = listener
        self._count = count
        self._arguments = arguments
        self._on_outcomes = on_outcomes
        self._give_up = give_up
        self._own_sockets = own_sockets
        self._failed_starts = 0
        self._lagging: list[int] = []
        self._workers: dict[int, _Worker] = {}
        self._tasks = Tasks("the supervisor of workers")
        self._slots: list[asyncio.Task[Any]] = []
        self._started = [asyncio.Event() for _ in range(count)]
        self._ready = [asyncio.Event() for _ in range(count)]
        self._stopping = asyncio.Event()
        self._settings: bytes | None = None
        self.restarts = 0

    def configure(self, settings: bytes) -> None:
        """Let all workers use `settings`, those that are started later as well."""
        self._settings = settings
        for worker in self._workers.values():
            worker.configure(settings)

    async def start(self) -> None:
        """Start the worker processes, without waiting until they serve."""
        self._slots = [self._tasks.keep(partial(self._keep_running, slot)) for slot in range(self._count)]
        await asyncio.gather(*(started.wait() for started in self._started))

    async def ready(self) -> None:
        """Wait until all workers serve."""
        await asyncio.gather(*(ready.wait() for ready in self._ready))

    async def publish(self, snapshot: Snapshot) -> None:
        """Let all workers load the snapshot in the store; return when they have, or are being replaced."""
        await asyncio.gather(*(worker.channel.ask("refresh") for worker in self._workers.values()))
        lagging = [slot for slot, worker in self._workers.items() if worker.generation < snapshot.generation]
        known, self._lagging = self._lagging, lagging
        if lagging and lagging != known:
            log.warning("workers %s have not loaded the new registrations yet", lagging)

    def up_to_date(self, snapshot: Snapshot) -> bool:
        """Return whether all workers run and have loaded `snapshot`."""
        workers = self._workers.values()
        return len(workers) == self._count and all(worker.generation >= snapshot.generation for worker in workers)

    def forget_credentials(self) -> None:
        """Let the workers drop their cached keys."""
        for worker in self._workers.values():
            worker.send("forget")

    async def check(self) -> None:
        """Kill workers that no longer answer, so that they are replaced."""
        workers = [worker for worker in self._workers.values() if worker.generation >= 0]
        answers = await asyncio.gather(*(worker.channel.ask("status", _HUNG_SECONDS) for worker in workers))
        for worker, answer in zip(workers, answers, strict=True):
            if answer is None and worker in self._workers.values():
                log.error("worker %d does not answer and is killed", worker.process.pid)
                worker.kill()

    async def status(self) -> list[dict[str, Any]]:
        """Return the status of each worker. One that does not run has no process ID, and does not answer."""
        workers = dict(self._workers)
        asked = await asyncio.gather(*(worker.channel.ask("status") for worker in workers.values()))
        answers = dict(zip(workers, asked, strict=True))
        found = []
        for slot in range(self._count):
            pid, answer = workers[slot].process.pid if slot in workers else None, answers.get(slot)
            of_worker = {key: value for key, value in (answer or {}).items() if key != "event"}
            found.append({"slot": slot, "pid": pid, "answers": answer is not None} | of_worker)
        return found

    async def stop(self) -> None:
        """Stop the workers; kill those that do not finish in time, and do not wait long for the end of those either."""
        self._stopping.set()
        for slot, task in enumerate(self._slots):
            if slot in self._workers:
                self._workers[slot].send("stop")
            else:
                task.cancel()  # it starts a worker, or waits before it starts one
        _, late = await asyncio.wait(self._slots, timeout=_STOP_SECONDS)
        if late:
            log.warning("%d workers did not stop in time and are killed", len(late))
            for worker in self._workers.values():
                worker.kill()
            await asyncio.wait(late, timeout=_KILLED_SECONDS)
        for worker in self._workers.values():
            log.error("worker %d was killed but has not ended", worker.process.pid)
        await self._tasks.end()

    async def _keep_running(self, slot: int) -> None:
        backoff = Backoff()
        said = ""
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_one(slot)
            if self._stopping.is_set():
                return
            pause = backoff.after_failed_start() if end.failed else backoff.after_service(time.monotonic() - started)
            if end.text != said:
                said = end.text
                log.error("%s; it is restarted in %g s", end.text, pause)
            self.restarts += 1
            self._count_failure(end)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    def _count_failure(self, end: _End) -> None:
        """Give up after repeated failures, unless a worker serves."""
        self._failed_starts = 0 if end.served else self._failed_starts + end.failed
        serving = any(worker.generation >= 0 for worker in self._workers.values())
        if self._failed_starts >= MAX_FAILED_STARTS and not serving:
            self._give_up(f"no worker can start: {self._failed_starts} in a row have failed, the last one: {end.text}")

    async def _run_one(self, slot: int) -> _End:
        """Run one worker in `slot` until it ends."""
        try:
            settings = self._settings
            worker = await self._spawn(slot, settings)
        except OSError as error:
            return _End(f"a worker cannot be started: {error}", failed=not is_temporary(error))
        finally:
            self._started[slot].set()
        self._workers[slot] = worker
        try:
            if self._settings is not None and self._settings is not settings:
                worker.configure(self._settings)
            status = await worker.process.wait()
        finally:
            worker.channel.close()  # the worker ends when its parent does, as far as it can tell
            del self._workers[slot]
        served = worker.generation >= 0
        failed = not served and status not in (os.EX_TEMPFAIL, -signal.SIGKILL)
        reason = f" (capabilities cannot be given up; {CAPSET_ADVICE})" if status == os.EX_NOPERM else ""
        return _End(f"worker {worker.process.pid} ended with status {status}{reason}", served, failed)

    async def _spawn(self, slot: int, settings: bytes | None) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as undo, ExitStack() as passed:
            undo.callback(ours.close)
            descriptors = {"listener": self._listener.fileno(), "parent": theirs.fileno()}
            for own in self._own_sockets[slot : slot + 1]:
                descriptors |= {name: sock.fileno() for name, sock in own.items()}
            if settings is not None:
                descriptors["settings"] = passed.enter_context(memory_file(settings)).fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "handshaked.worker",
                *(f"--{name}={descriptor}" for name, descriptor in descriptors.items()),
                *self._arguments,
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
            worker = _Worker(process, ours, self._ready[slot], self._on_outcomes)
            undo.pop_all()
        return worker
