"""``handshaked``, the parent process: the registry's only writer, the control socket, and the workers' supervisor.

This module only connects the parts; they are in the rooms that it imports.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

from handshaked import __version__
from handshaked.callers.closing import Closer
from handshaked.configuration.daemon_options import DaemonOptions, parse_options
from handshaked.configuration.handshaked_toml import DEFAULT_PATH, OWN_NAMESPACE, Configuration, upcall_capabilities
from handshaked.control.bus.service import BusService
from handshaked.control.commands import Commands
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.control.key_erasure import KeyErasure
from handshaked.control.manager import Manager
from handshaked.control.registry_feed import RegistryFeed
from handshaked.control.requests.permissions import uid_of
from handshaked.control.server import ControlServer
from handshaked.errors import HandshakedError, RefusedError, UnavailableError
from handshaked.handshakes.resources import system_trust_notices
from handshaked.handshakes.side_files import SideFiles, SideFilesWatch
from handshaked.model import Caller
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import Lifetime, RegistryWriter
from handshaked.reporting.metrics import MAX_LIFETIMES, Exporter, MetricValues
from handshaked.system import signals
from handshaked.system.capabilities import Capability, has, pass_on
from handshaked.system.directories import CONTROL_SOCKET, DATABASE, DROP_INS, HANDSHAKE_SOCKET
from handshaked.system.keylog_file import KeyLogFile
from handshaked.system.listening import BoundPaths, lock_file, open_listener, still_bound
from handshaked.system.memory import MemoryReturn
from handshaked.system.process import DEFAULT_LEVEL, forbid_core_dumps, raise_descriptor_limit, start_logging
from handshaked.system.systemd import by_name, inherited_sockets, notify, notify_reloading
from handshaked.system.tasks import Tasks
from handshaked.upcall.kernel_sockets import is_isolated, pairs_of
from handshaked.workers.self_test import SelfTest
from handshaked.workers.supervisor import Supervisor
from handshaked.workers.watchdog import Watchdog

log = logging.getLogger(__name__)

_SELF = Caller(os.geteuid())
_WARNING_SECONDS = 60.0
_ROTATION_SECONDS = 600.0
_SWITCH_SECONDS = 0.0005
"""Longest time in which a running thread that reads a user's files may keep the event loop from running."""


def main() -> None:
    """Run the daemon in the foreground, or check its configuration."""
    options = parse_options()
    try:
        files = _side_files(options)
    except RefusedError as error:
        sys.exit(f"handshaked: {error}")
    if options.check_config:
        problems = read_drop_ins(options.configuration_directory / DROP_INS).problems
        sys.exit("\n".join(f"handshaked: {problem}" for problem in problems) or 0)
    configuration = files.configuration
    forbid_core_dumps()
    raise_descriptor_limit()
    sys.setswitchinterval(_SWITCH_SECONDS)
    start_logging(_log_level(options, configuration), "handshaked", options.log_format)
    try:
        options.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = lock_file(
            options.state_directory / "lock", f"another handshaked is running on {options.state_directory}"
        )
        _check_keylog(configuration)
        asyncio.run(_run(options, files))
        os.close(lock)
    except (OSError, HandshakedError) as error:
        log.error("cannot run: %s", error)
        sys.exit(1)


async def _run(options: DaemonOptions, files: SideFiles) -> None:
    await Daemon(options, files).run()


class Daemon:
    """The parts of the parent process, and what connects them."""

    def __init__(self, options: DaemonOptions, files: SideFiles) -> None:
        self._sockets = _Sockets(options.runtime_directory)
        self._options = options
        self._store = SqliteRegistryWriter(options.state_directory / DATABASE)
        self._self_test = _prepare(self._store)
        self._side_files = SideFilesWatch(files, partial(_side_files, options), self._configure_workers)
        self._upcalls = _handles_upcalls(options, files.configuration)
        if self._upcalls and OWN_NAMESPACE in _namespaces(options, files.configuration):
            _check_own_namespace(len(self._sockets.netlink), options.workers)
        self._supervisor = self._prepare_workers(files)
        self._closer = Closer()
        self._manager = Manager(
            self._store,
            self._publish,
            options.configuration_directory / DROP_INS,
            lambda: [*system_trust_notices(), *self._side_files.reload()],
            self._closer.pool,
        )
        self._followers = _follower_uids(options.demux_user)
        self._feed = RegistryFeed(self._manager.snapshot, self._followers)
        self._watchdog = Watchdog(self._run_self_test, self._supervisor.check)
        self._commands = Commands(
            self._manager,
            self._supervisor,
            self._feed,
            {"self_test": lambda: self._watchdog.state, "bus": lambda: self._bus.state},
        )
        self._bus = BusService(options.bus, self._commands, self._manager, lambda: self._watchdog.state, self._closer)
        self._erasure = KeyErasure(
            self._store,
            lambda: self._manager.snapshot,
            self._supervisor.up_to_date,
            self._supervisor.forget_credentials,
        )
        self._exporter = Exporter(self._metric_values, self._closer)
        self._tasks = Tasks("the daemon")
        self._hangup = asyncio.Event()
        self._end = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. OSError or HandshakedError if the daemon cannot serve, or no longer."""
        with signals.handled(
            {
                signal.SIGTERM: self._end.set,
                signal.SIGINT: self._end.set,
                signal.SIGHUP: self._hangup.set,
            }
        ):
            await self._serve()

    async def _serve(self) -> None:
        control = ControlServer(
            self._sockets.control,
            self._commands,
            self._commands.subscribe,
            self._manager.may_register,
            self._closer,
            privileged=self._followers,
        )
        self._tasks.start(self._start())
        self._tasks.keep(self._reload_when_told)
        await self._end.wait()
        await self._close(control)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._end.set()

    async def _close(self, control: ControlServer) -> None:
        notify(STOPPING="1", STATUS="stopping")
        log.info("stopping")
        await self._tasks.end()
        self._exporter.close()
        self._bus.close()
        await control.close()
        await self._manager.close()
        await self._supervisor.stop()
        self._store.close()

    async def _start(self) -> None:
        try:
            await self._supervisor.start()
            await self._manager.start()  # slow if there are many registrations; the workers load them at the same time
            await self._supervisor.ready()
            await self._watchdog.first_beat()
        except (OSError, HandshakedError) as error:
            self._fail(error)
            return
        log.info("handshaked %s is ready, %d registrations", __version__, len(self._manager.snapshot) - 1)
        notify(READY="1", STATUS=f"{len(self._manager.snapshot) - 1} registrations, {self._options.workers} workers")
        self._tasks.keep(self._watchdog.run)
        self._tasks.keep(MemoryReturn().run)
        self._tasks.keep(self._warn)
        self._tasks.keep(self._erasure.run)
        self._tasks.keep(self._side_files.run)
        self._tasks.keep(self._rotate_ticket_keys)
        self._tasks.keep(self._bus.run)
        self._tasks.keep(self._watch_sockets)
        self._exporter.start(self._sockets.metrics, self._options.metrics)

    async def _watch_sockets(self) -> None:
        """End the daemon if somebody removes its sockets: systemd starts it again, and it makes new ones."""
        try:
            await self._sockets.paths.watch()
        except UnavailableError as error:
            self._fail(error)

    def _prepare_workers(self, files: SideFiles) -> Supervisor:
        supervisor = Supervisor(
            self._sockets.handshakes,
            self._options.workers,
            _worker_arguments(self._options, files.configuration, passed_netlink=bool(self._sockets.netlink)),
            lambda batch: self._manager.events.receive(batch),
            lambda reason: self._fail(UnavailableError(reason)),
            [{"commands": commands, "events": events} for commands, events in self._sockets.netlink],
        )
        if self._upcalls:
            supervisor.configure(files.push())
        # Workers parse what strangers send: this process reads files for them.
        pass_on(upcall_capabilities(_namespaces(self._options, files.configuration)) if self._upcalls else ())
        return supervisor

    def _configure_workers(self, files: SideFiles) -> None:
        self._manager.use_settings([*system_trust_notices(), *files.notices])
        if self._upcalls:
            self._supervisor.configure(files.push())

    async def _publish(self, snapshot: Snapshot) -> None:
        await asyncio.gather(self._supervisor.publish(snapshot), self._feed.publish(snapshot))

    async def _reload_when_told(self) -> None:
        """Reload after SIGHUP; signals that arrive meanwhile count as one."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            notify_reloading()
            try:
                await self._manager.reload(_SELF)
            finally:
                notify(READY="1")

    async def _run_self_test(self) -> str | None:
        return await self._self_test.run(self._sockets.handshake_path)

    async def _warn(self) -> None:
        failing = False
        while True:
            try:
                await self._manager.warn(time.time())
                failing = False
            except UnavailableError as error:
                if not failing:
                    log.error("cannot look for certificates that expire: %s", error)
                failing = True
            await asyncio.sleep(_WARNING_SECONDS)

    async def _rotate_ticket_keys(self) -> None:
        while True:
            try:
                if self._store.rotate_ticket_keys(time.time()):
                    await self._supervisor.publish(self._manager.snapshot)
            except UnavailableError as error:
                log.error("cannot rotate ticket keys, the current ones stay in use: %s", error)
            await asyncio.sleep(_ROTATION_SECONDS)

    async def _metric_values(self) -> MetricValues:
        """Return the values of the metrics, without lifetimes if the registry cannot be read."""
        workers = await self._supervisor.status()
        broker = self._manager.events
        lifetimes: dict[str, Lifetime] = {}
        with contextlib.suppress(UnavailableError):  # ``_warn`` reports it
            lifetimes = self._manager.lifetimes(MAX_LIFETIMES)
        return MetricValues(
            counts=broker.counts,
            unreported=broker.left_out,
            registrations=sum(not one.internal for one in self._manager.snapshot.registrations),
            problems=len(self._manager.renewal.problems),
            lifetimes=lifetimes,
            workers=workers,
            worker_restarts=self._supervisor.restarts,
        )


def _side_files(options: DaemonOptions) -> SideFiles:
    """Return the current configuration with the files it names; RefusedError if one of them cannot be used."""
    return SideFiles.read(options.configuration or DEFAULT_PATH, required=options.configuration is not None)


def _log_level(options: DaemonOptions, configuration: Configuration) -> str:
    return options.log_level or configuration.log_level or DEFAULT_LEVEL


def _check_keylog(configuration: Configuration) -> None:
    """Raise RefusedError if the workers could not write the key log that the configuration asks for."""
    if configuration.keylog is not None:
        KeyLogFile(configuration.keylog).close()


class _Sockets:
    """The listening sockets: those that systemd passed, else new ones in `directory`."""

    def __init__(self, directory: Path) -> None:
        passed = inherited_sockets()
        inherited = by_name(passed)
        self.netlink = pairs_of([sock for _, sock in passed])
        self._lock: int | None = None
        self.metrics = inherited.get("metrics")
        self.handshakes, self.handshake_path = self._listen(inherited, directory / HANDSHAKE_SOCKET)
        self.control, control_path = self._listen(inherited, directory / CONTROL_SOCKET)
        self.paths = BoundPaths((self.handshake_path, control_path), "handshaked")

    def _listen(self, inherited: dict[str, socket.socket], path: Path) -> tuple[socket.socket, Path]:
        sock = inherited.get(path.name)
        if sock is not None:
            path = Path(sock.getsockname())
            if still_bound(sock, path):
                return sock, path
        if self._lock is None:
            self._lock = lock_file(path.with_name("sockets.lock"), f"another handshaked is running in {path.parent}")
        return open_listener(path), path


def _prepare(store: RegistryWriter) -> SelfTest:
    """Bring `store` up to date, and register a new self-test."""
    self_test = SelfTest.make(os.geteuid())
    store.rotate_ticket_keys(time.time())
    store.register(self_test.registration, replace=True)
    store.forget_unused()
    return self_test


def _worker_arguments(options: DaemonOptions, configuration: Configuration, *, passed_netlink: bool) -> list[str]:
    """Return the command line of a worker, without its sockets."""
    arguments = [
        f"--state-directory={options.state_directory}",
        f"--log-level={_log_level(options, configuration)}",
        f"--log-format={options.log_format}",
    ]
    if configuration.keylog is not None:
        arguments.append(f"--keylog={configuration.keylog}")
    arguments += [f"--netns={name}" for name in _namespaces(options, configuration)]
    if passed_netlink:
        arguments.append("--passed-netlink")
    if options.emulated_quic_sockets:
        arguments.append("--emulated-quic-sockets")
    return arguments


def _namespaces(options: DaemonOptions, configuration: Configuration) -> tuple[str, ...]:
    """Return the names of the network namespaces whose upcalls are handled."""
    return tuple(options.netns) or configuration.kernel.network_namespaces or (OWN_NAMESPACE,)


def _handles_upcalls(options: DaemonOptions, configuration: Configuration) -> bool:
    """Return whether workers handle kernel upcalls; log what is missing."""
    wanted = configuration.kernel.enabled if options.kernel is None else options.kernel
    permitted = has(Capability.NET_ADMIN)
    if wanted and not permitted:
        log.warning("kernel upcalls: CAP_NET_ADMIN is missing, without which the kernel hands over no request")
    elif wanted is None and not permitted:
        log.info("kernel upcalls are off: CAP_NET_ADMIN is missing")
    return permitted if wanted is None else wanted


def _check_own_namespace(passed: int, workers: int) -> None:
    """Log if not all workers can handle the upcalls of the own network namespace with `passed` pairs of sockets."""
    if passed and passed < workers:
        log.info("kernel upcalls: %d of %d workers handle them, as systemd passes no more sockets", passed, workers)
    if not passed and is_isolated():
        log.warning(
            "kernel upcalls: the daemon's network namespace has no interfaces, and systemd passed no sockets of another"
        )


def _follower_uids(demux_user: str) -> frozenset[int]:
    """Return the uids of root, of the daemon's own user, and of the demultiplexer's user if it exists."""
    uids = {0, os.geteuid()}
    with contextlib.suppress(RefusedError):
        uids.add(uid_of(demux_user))
    return frozenset(uids)


if __name__ == "__main__":
    main()
