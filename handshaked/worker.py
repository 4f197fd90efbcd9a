"""One worker process: serves the Unix door out of its own snapshot until its parent tells it to stop.

The parent talks to it over a socket pair, in JSON: ``refresh``, ``status``, ``forget``, ``stop``; what it has to say of
handshakes goes the other way, a batch at a time. When the parent is gone, so is the worker.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path

from handshaked.control.channel import Message, receive_message, send_message
from handshaked.directories import DATABASE
from handshaked.errors import HandshakedError, UnavailableError
from handshaked.model import Outcome, Request
from handshaked.outcomes import OutcomeRecorder
from handshaked.process import forbid_core_dumps, start_logging
from handshaked.registry.store import Store
from handshaked.service import HandshakeService
from handshaked.upcall.unix import Limits, UnixDoor

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
_REPORT_SECONDS = 0.2
_RECORDS_A_MESSAGE = 20


class Worker:
    """Wires the door to the service and follows the parent's commands."""

    def __init__(self, listener: socket.socket, parent: socket.socket, state_directory: Path) -> None:
        self._parent = parent
        self._store = Store(state_directory / DATABASE, read_only=True)
        self._outcomes = OutcomeRecorder()
        self._service = HandshakeService(self._store.load(), self._store.credential, self._on_outcome)
        # The snapshot lives long and holds no cycles: keep the collector from walking it.
        gc.collect()
        gc.freeze()
        self._door = UnixDoor(listener, self._service, Limits())
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._stopping = False
        self._unsent: deque[Message] = deque()
        self._report_planned = False

    async def run(self) -> None:
        """Serve until stopped."""
        self._parent.setblocking(False)
        self._loop.add_reader(self._parent, self._on_command)
        self._tell({"event": "ready", "generation": self._service.snapshot.generation})
        await self._stopped.wait()
        self._door.close()
        self._report()
        self._store.close()

    def _on_command(self) -> None:
        try:
            received = receive_message(self._parent)
        except BlockingIOError:
            return
        if received is None:
            self._stopped.set()
            return
        command = received[0].get("command")
        if command == "refresh":
            self._refresh()
        elif command == "forget":
            self._service.forget_credentials()
        elif command == "status":
            self._tell({"event": "status", "in_flight": self._service.in_flight, **self._outcomes.counts})
        elif command == "stop":
            self._begin_to_stop()

    def _refresh(self) -> None:
        try:
            self._service.snapshot = self._store.refresh(self._service.snapshot)
        except UnavailableError as error:
            log.error("cannot take over the new registrations, the old ones stay: %s", error)
        self._tell({"event": "refreshed", "generation": self._service.snapshot.generation})

    def _begin_to_stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._door.stop_accepting()
        self._loop.call_later(DRAIN_SECONDS, self._stopped.set)
        self._service.when_idle(self._stopped.set)

    def _on_outcome(self, request: Request, outcome: Outcome, seconds: float) -> None:
        self._outcomes(request, outcome, seconds)
        if not self._report_planned:
            self._report_planned = True
            self._loop.call_later(_REPORT_SECONDS, self._report)

    def _report(self) -> None:
        """Hand over what the recorder has, unless the parent has not read the last of it yet: then it gathers on."""
        self._report_planned = False
        while self._outcomes.pending and not self._unsent:
            batch = self._outcomes.take()
            records = batch.pop("records")
            self._tell({"event": "outcomes", "records": [], **batch})
            for start in range(0, len(records), _RECORDS_A_MESSAGE):
                self._tell({"event": "outcomes", "records": records[start : start + _RECORDS_A_MESSAGE]})
        if self._outcomes.pending:
            self._report_planned = True
            self._loop.call_later(_REPORT_SECONDS, self._report)

    def _tell(self, message: Message) -> None:
        self._unsent.append(message)
        self._write()

    def _write(self) -> None:
        while self._unsent:
            try:
                send_message(self._parent, self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._parent, self._write)
                return
            except OSError as error:
                log.debug("the parent is gone: %s", error)
                self._unsent.clear()
                self._stopped.set()
                break
            self._unsent.popleft()
        self._loop.remove_writer(self._parent)


async def _run(arguments: argparse.Namespace) -> None:
    listener = socket.socket(fileno=arguments.listener)
    parent = socket.socket(fileno=arguments.parent)
    # Signals that a terminal sends to the whole group are the parent's to handle.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    await Worker(listener, parent, arguments.state_directory).run()


def main() -> None:
    """Run a worker; its parent starts it with the descriptors it needs."""
    parser = argparse.ArgumentParser(prog="handshaked-worker")
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--state-directory", type=Path, required=True)
    parser.add_argument("--log-level", required=True)
    parser.add_argument("--log-format", required=True)
    arguments = parser.parse_args()
    forbid_core_dumps()
    start_logging(arguments.log_level, f"worker[{os.getpid()}]", arguments.log_format)
    try:
        asyncio.run(_run(arguments))
    except (OSError, HandshakedError) as error:
        log.error("cannot work: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
