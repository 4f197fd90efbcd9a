"""Keeps the workers running: starts them, restarts one that dies, tells all of them of a new snapshot."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from handshaked.errors import RefusedError
from handshaked.registry.snapshot import Snapshot
from handshaked.wire.json_packets import Message, receive_message, send_message

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
_STEADY_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
_HUNG_SECONDS = 15.0  # more than a busy machine lets a worker wait, and than its callers do
_STOP_SECONDS = 15.0


class _Worker:
    """A worker process and the parent's end of its socket pair."""

    def __init__(
        self, process: Process, channel: socket.socket, ready: asyncio.Event, on_outcomes: Callable[[Message], None]
    ) -> None:
        self.process = process
        self._ready = ready
        self._on_outcomes = on_outcomes
        self.generation = -1
        self._channel = channel
        self._waiting: list[tuple[str, asyncio.Future[Message]]] = []
        channel.setblocking(False)
        asyncio.get_running_loop().add_reader(channel, self._on_event)

    async def ask(self, command: str, event: str, seconds: float = _ANSWER_SECONDS) -> Message | None:
        """Send `command` and wait for `event`; None if the worker does not answer in time, or is gone."""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, answer))
        try:
            send_message(self._channel, {"command": command})
            await asyncio.wait([answer], timeout=seconds)
        except OSError:
            return None
        finally:
            self._waiting = [waiting for waiting in self._waiting if waiting[1] is not answer]
        return answer.result() if answer.done() and not answer.cancelled() else None

    def tell(self, command: str) -> None:
        """Send `command`, to which no answer comes."""
        try:
            send_message(self._channel, {"command": command})
        except OSError as error:
            log.debug("worker %d cannot be told to %s: %s", self.process.pid, command, error)

    def kill(self) -> None:
        """End the process, if it has not just ended by itself."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        """Let go of the channel; whoever waits for an answer gets none."""
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        for _, answer in self._waiting:
            answer.cancel()

    def _on_event(self) -> None:
        try:
            received = receive_message(self._channel)
        except BlockingIOError:
            return
        except (OSError, RefusedError):
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(self._channel)
            return
        message = received[0]
        if message["event"] == "outcomes":
            self._on_outcomes(message)
            return
        if message["event"] in ("ready", "refreshed"):
            self.generation = message["generation"]
            self._ready.set()
        for waiting in self._waiting:
            if waiting[0] == message["event"]:
                self._waiting.remove(waiting)
                if not waiting[1].done():
                    waiting[1].set_result(message)
                return


class Supervisor:
    """Runs `count` workers that share `listener`, each started with `options` besides; `on_outcomes` gets the batches
    of what they say of handshakes.
    """

    def __init__(
        self, listener: socket.socket, count: int, options: Sequence[str], on_outcomes: Callable[[Message], None]
    ) -> None:
        self._listener = listener
        self._count = count
        self._options = options
        self._on_outcomes = on_outcomes
        self._workers: dict[int, _Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = [asyncio.Event() for _ in range(count)]
        self._ready = [asyncio.Event() for _ in range(count)]
        self._stopping = asyncio.Event()
        self.restarts = 0

    async def start(self) -> None:
        """Start the workers, which may take a while until they serve."""
        self._tasks = [asyncio.create_task(self._keep_running(slot)) for slot in range(self._count)]
        await asyncio.gather(*(begun.wait() for begun in self._begun))

    async def ready(self) -> None:
        """Wait until each of the workers serves."""
        await asyncio.gather(*(ready.wait() for ready in self._ready))

    async def publish(self, snapshot: Snapshot) -> None:
        """Have all workers take over what is in the store; returns when they have (or are being replaced)."""
        await asyncio.gather(*(worker.ask("refresh", "refreshed") for worker in self._workers.values()))
        lagging = [slot for slot, worker in self._workers.items() if worker.generation < snapshot.generation]
        if lagging:
            log.warning("workers %s have not taken over the new registrations yet", lagging)

    def up_to_date(self, snapshot: Snapshot) -> bool:
        """Whether all workers run, and have taken over `snapshot`."""
        workers = self._workers.values()
        return len(workers) == self._count and all(worker.generation >= snapshot.generation for worker in workers)

    def forget_credentials(self) -> None:
        """Have the workers drop the keys that they keep at hand."""
        for worker in self._workers.values():
            worker.tell("forget")

    async def check(self) -> None:
        """End workers that do not answer any more, so that others take their place."""
        workers = [worker for worker in self._workers.values() if worker.generation >= 0]
        answers = await asyncio.gather(*(worker.ask("status", "status", _HUNG_SECONDS) for worker in workers))
        for worker, answer in zip(workers, answers, strict=True):
            if answer is None and worker in self._workers.values():
                log.error("worker %d does not answer and is killed", worker.process.pid)
                worker.kill()

    async def status(self) -> list[dict[str, Any]]:
        """What each worker says of itself."""
        workers = sorted(self._workers.items())
        answers = await asyncio.gather(*(worker.ask("status", "status") for _, worker in workers))
        return [
            {"slot": slot, "pid": worker.process.pid, "answers": answer is not None}
            | {key: value for key, value in (answer or {}).items() if key != "event"}
            for (slot, worker), answer in zip(workers, answers, strict=True)
        ]

    async def stop(self) -> None:
        """Let the workers finish, for a bounded time, and end those that do not."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.tell("stop")
        _, late = await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        if late:
            log.warning("%d workers did not stop in time and are killed", len(late))
            for worker in self._workers.values():
                worker.kill()
            await asyncio.wait(late)

    async def _keep_running(self, slot: int) -> None:
        backoff = _FIRST_BACKOFF
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_one(slot)
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY_SECONDS:
                backoff = _FIRST_BACKOFF
            log.error("%s; the next one starts in %g s", end, backoff)
            self.restarts += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    async def _run_one(self, slot: int) -> str:
        """Run one worker in `slot` until it ends: how it did."""
        try:
            worker = self._workers[slot] = await self._spawn(self._ready[slot])
        except OSError as error:
            return f"a worker cannot be started: {error}"
        finally:
            self._begun[slot].set()
        try:
            return f"worker {worker.process.pid} ended with status {await worker.process.wait()}"
        finally:
            worker.close()
            del self._workers[slot]

    async def _spawn(self, ready: asyncio.Event) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "handshaked.worker",
                f"--listener={self._listener.fileno()}",
                f"--parent={theirs.fileno()}",
                *self._options,
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
            undo.pop_all()
        return _Worker(process, ours, ready, self._on_outcomes)
