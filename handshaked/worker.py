"""One worker process: serves handshakes from its own snapshot of the registry until its parent tells it to stop.

The parent sends JSON commands over a socket pair: ``refresh``, ``configure``, ``status``, ``forget``, ``stop``. The
worker answers, and sends the outcomes of handshakes in batches. It ends when its parent ends. It gives up capabilities
that kernel upcalls do not need, so the parent reads the files that the configuration names and sends their content.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handshaked.callers.account import Limits, Totals
from handshaked.callers.log_limit import LogLimit
from handshaked.configuration.handshaked_toml import OWN_NAMESPACE, upcall_capabilities
from handshaked.datapath.emulated import emulated_quic_socket
from handshaked.datapath.quic_socket import kernel_quic_socket
from handshaked.errors import HandshakedError, RefusedError, UnavailableError, is_temporary
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.resources import StoredResources
from handshaked.handshakes.service import HandshakeService
from handshaked.handshakes.side_files import SideFiles
from handshaked.registry.replay import ReplayRecord
from handshaked.registry.sqlite_reader import SqliteRegistryReader
from handshaked.reporting.outcomes import OutcomeRecorder
from handshaked.system.capabilities import CAPSET_ADVICE, keep_only
from handshaked.system.directories import DATABASE, REPLAY_RECORD
from handshaked.system.keylog_file import KeyLogFile
from handshaked.system.memory import MemoryReturn
from handshaked.system.memory_file import content_of
from handshaked.system.process import descriptor_limit, forbid_core_dumps, start_logging
from handshaked.system.tasks import Tasks
from handshaked.tls.keylog import KeyLog
from handshaked.upcall.unix import UnixSource
from handshaked.wire.json_packets import Message
from handshaked.workers.parent_channel import ParentChannel

if TYPE_CHECKING:  # see _kernel_sources
    from handshaked.upcall.kernel_sources import KernelSources

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
_RETRY_SECONDS = 1.0


class Worker:
    """Connects the upcall sources to the service, and executes the parent's commands."""

    def __init__(
        self, listener: socket.socket, parent: socket.socket, arguments: argparse.Namespace, keylog: KeyLog | None
    ) -> None:
        self._store = SqliteRegistryReader(arguments.state_directory / DATABASE)
        self._log_limit = LogLimit()
        self._outcomes = OutcomeRecorder(self._log_limit, lambda batch: self._channel.report(batch))
        replays = ReplayRecord(arguments.state_directory / REPLAY_RECORD)
        self._resources = StoredResources(self._store, replays, keylog)
        self._service = HandshakeService(self._store.load(), self._resources, self._outcomes)
        # The snapshot is long-lived and has no cycles, and handshakes have none: keep the collector from traversing it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        open_socket = emulated_quic_socket if arguments.emulated_quic_sockets else kernel_quic_socket
        quic_sockets = QuicSocketHandshakes(self._service, open_socket)
        limits = Limits(totals=Totals().within(descriptor_limit()))
        self._source = UnixSource(listener, self._service, limits, self._log_limit, quic_sockets)
        self._kernel = _kernel_sources(self._service, arguments)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._tasks = Tasks("the worker")
        self._stopping = False
        self._retry: asyncio.TimerHandle | None = None
        self._channel = ParentChannel(parent, self._on_command, self._stopped.set)

    async def run(self) -> None:
        """Serve until stopped."""
        self._channel.send({"event": "ready", "generation": self._service.snapshot.generation})
        self._tasks.keep(MemoryReturn().run)
        await self._stopped.wait()
        await self._tasks.end()
        self._source.close()
        if self._kernel is not None:
            self._kernel.close()
        self._outcomes.flush()
        self._log_limit.report_dropped()
        self._store.close()

    def _on_command(self, command: str, file: int | None) -> Message | None:
        """Execute `command`, and return its answer if it has one."""
        if command == "refresh":
            self._load()
            return self._refreshed
        if command == "status":
            kernel = None if self._kernel is None else self._kernel.status
            state = {"in_flight": self._service.in_flight, "queue": self._source.unsent_bytes, "kernel": kernel}
            return {"event": "status", **state, **self._outcomes.counts}
        if command == "configure" and file is not None and self._kernel is not None:
            self._kernel.reload(SideFiles.pull(content_of(file)))
        elif command == "forget":
            self._resources.forget()
        elif command == "stop":
            self._start_stopping()
        return None

    @property
    def _refreshed(self) -> Message:
        return {"event": "refreshed", "generation": self._service.snapshot.generation}

    def _load(self) -> None:
        """Load the current registrations, now or as soon as they can be read."""
        failed_before = self._retry is not None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            self._service.snapshot = self._store.refresh(self._service.snapshot)
            self._resources.refresh()
        except UnavailableError as error:
            if not failed_before:
                log.error("cannot load the new registrations, the current ones stay in use: %s", error)
            self._retry = self._loop.call_later(_RETRY_SECONDS, self._load_again)
        else:
            if failed_before:
                log.info("the new registrations are loaded")

    def _load_again(self) -> None:
        self._load()
        self._channel.send(self._refreshed)

    def _start_stopping(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._source.stop_accepting()
        if self._kernel is not None:
            self._kernel.stop_accepting()
        self._loop.call_later(DRAIN_SECONDS, self._stopped.set)
        self._service.when_idle(self._stopped.set)


def _open_keylog(path: Path | None) -> tuple[KeyLogFile | None, RefusedError | None]:
    """Return the key log file, None without a `path`, and why it cannot be opened."""
    try:
        return None if path is None else KeyLogFile(path), None
    except RefusedError as error:
        return None, error


def _kernel_sources(service: HandshakeService, arguments: argparse.Namespace) -> "KernelSources | None":
    """Return the kernel sources, None if they are disabled."""
    if arguments.settings is None:
        return None
    # Imported here: pyroute2 takes 0.17 s and 20 MB, which daemons without the privilege do not need.
    from handshaked.upcall.kernel_sockets import NetlinkLink
    from handshaked.upcall.kernel_sources import KernelSources

    files = SideFiles.pull(content_of(arguments.settings))
    os.close(arguments.settings)
    passed = None
    if arguments.commands is not None and arguments.events is not None:
        passed = (socket.socket(fileno=arguments.commands), socket.socket(fileno=arguments.events))
    left_out = OWN_NAMESPACE if arguments.passed_netlink and passed is None else None
    namespaces = tuple(name for name in arguments.netns if name != left_out)
    return KernelSources(service, files, namespaces, open_link=partial(NetlinkLink, passed=passed))


def _keep_needed_capabilities(arguments: argparse.Namespace) -> OSError | None:
    """Give up what this process does not need, because it parses what strangers send; return why that failed, if so."""
    kernel = arguments.settings is not None
    needed = upcall_capabilities(arguments.netns) if kernel else ()
    try:
        keep_only(needed)
    except OSError as error:
        return error
    return None


async def _run(arguments: argparse.Namespace, keylog: KeyLog | None) -> None:
    listener = socket.socket(fileno=arguments.listener)
    parent = socket.socket(fileno=arguments.parent)
    # The parent handles the signals that a terminal sends to the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    await Worker(listener, parent, arguments, keylog).run()


def main() -> None:
    """Run a worker; its parent passes the descriptors that it needs."""
    parser = argparse.ArgumentParser(prog="handshaked-worker")
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--state-directory", type=Path, required=True)
    parser.add_argument("--log-level", required=True)
    parser.add_argument("--log-format", required=True)
    parser.add_argument("--settings", type=int, help="file with the settings of kernel upcalls, if they are handled")
    parser.add_argument("--passed-netlink", action="store_true", help="only these serve the own network namespace:")
    parser.add_argument("--commands", type=int, help="netlink socket for commands")
    parser.add_argument("--events", type=int, help="netlink socket for events")
    parser.add_argument("--netns", action="append", default=[])
    parser.add_argument("--emulated-quic-sockets", action="store_true")
    parser.add_argument("--keylog", type=Path)
    arguments = parser.parse_args()
    forbid_core_dumps()
    keylog, unusable = _open_keylog(arguments.keylog)
    refused = _keep_needed_capabilities(arguments)
    # Logging starts a thread, which would keep capabilities that are given up later.
    start_logging(arguments.log_level, f"worker[{os.getpid()}]", arguments.log_format)
    if refused is not None:
        log.error("the worker cannot start: %s", f"{refused.strerror}; {CAPSET_ADVICE}")
        sys.exit(os.EX_NOPERM)
    try:
        if unusable is not None:
            raise unusable
        if keylog is not None:
            keylog.warn()
        asyncio.run(_run(arguments, None if keylog is None else keylog.write))
    except (OSError, HandshakedError, MemoryError) as error:
        log.error("the worker cannot start: %s", error)
        sys.exit(os.EX_TEMPFAIL if is_temporary(error) else 1)


if __name__ == "__main__":
    main()
