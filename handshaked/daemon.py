"""``handshaked``: the only place that names concrete sources and wires them together."""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from handshaked import __version__
from handshaked.configuration.handshaked_toml import DEFAULT_PATH, Configuration, load_configuration
from handshaked.control.bus.service import OFF, Bus
from handshaked.control.commands import Commands
from handshaked.control.erasure import Erasure
from handshaked.control.files.drop_ins import read_drop_ins
from handshaked.control.manager import Manager
from handshaked.control.registry_feed import Followers
from handshaked.control.requests.permissions import uid_of
from handshaked.control.server import ControlServer
from handshaked.errors import HandshakedError, RefusedError, UnavailableError
from handshaked.handshakes.peer_policy import check_sides
from handshaked.model import Caller
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import Store
from handshaked.reporting.metrics import MAX_EXPIRIES, Exporter, Figures
from handshaked.system import directories
from handshaked.system.command_line import RecordingParser
from handshaked.system.journal import FORMATS
from handshaked.system.keylog_file import KeyLogFile
from handshaked.system.process import DEFAULT_LEVEL, LEVELS, forbid_core_dumps, may_administer_network, start_logging
from handshaked.system.systemd import listening_sockets, notify, notify_reloading
from handshaked.system.tasks import Tasks
from handshaked.wire.json_packets import Message
from handshaked.workers.self_test import SelfTest
from handshaked.workers.supervisor import Supervisor
from handshaked.workers.watchdog import Watchdog

log = logging.getLogger(__name__)

_BACKLOG = 4096
_SELF = Caller(os.geteuid())
_EXPIRY_SECONDS = 3600.0
_ROTATION_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon is started with."""

    state_directory: Path
    runtime_directory: Path
    configuration_directory: Path
    workers: int
    log_level: str | None
    log_format: str
    bus: str
    metrics: str | None
    configuration: Path | None
    check_config: bool
    kernel: bool | None
    emulated_quic_sockets: bool
    netns: list[str]
    demux_user: str


class Daemon:
    """The parent process: the registry's only writer, the control socket, and the workers' keeper."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        passed = listening_sockets()
        self._settings = settings
        self._store = Store(settings.state_directory / directories.DATABASE)
        self._self_test = SelfTest.make(os.geteuid())
        self._store.rotate_ticket_keys(time.time())
        self._store.register(self._self_test.registration, replace=True)
        self._store.forget_unused()
        self._listener = _socket(passed, settings.runtime_directory / directories.HANDSHAKE_SOCKET)
        self._control = _socket(passed, settings.runtime_directory / directories.CONTROL_SOCKET)
        options = (
            f"--state-directory={settings.state_directory}",
            f"--log-level={settings.log_level or configuration.log_level or DEFAULT_LEVEL}",
            f"--log-format={settings.log_format}",
            *_door_options(settings, configuration),
        )
        self._supervisor = Supervisor(self._listener, settings.workers, options, self._on_outcomes)
        self._manager = Manager(
            self._store,
            self._publish,
            settings.configuration_directory / directories.DROP_INS,
            partial(_configuration, settings),
        )
        self._followers = Followers(self._manager.snapshot, _followers_uids(settings.demux_user))
        address = Path(self._listener.getsockname())
        self._watchdog = Watchdog(lambda: self._self_test.run(address), self._supervisor.check)
        self._commands = Commands(
            self._manager,
            self._supervisor,
            self._followers,
            {"self_test": lambda: self._watchdog.state, "bus": lambda: self._bus.state},
        )
        self._bus = Bus(settings.bus, self._commands, self._manager, lambda: self._watchdog.state)
        self._erasure = Erasure(
            self._store,
            lambda: self._manager.snapshot,
            self._supervisor.up_to_date,
            self._supervisor.forget_credentials,
        )
        self._exporter = Exporter(self._figures)
        self._metrics = passed.get("metrics")
        self._tasks = Tasks("the daemon")

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.keep(self._reload()))
        control = ControlServer(self._control, self._commands, self._commands.subscribe)
        self._tasks.keep(self._start())
        await stop.wait()
        notify(STOPPING="1", STATUS="stopping")
        log.info("stopping")
        await self._tasks.end()
        self._exporter.close()
        self._bus.close()
        await control.close()
        await self._manager.renewal.close()
        await self._supervisor.stop()
        self._store.close()

    async def _publish(self, snapshot: Snapshot) -> None:
        await asyncio.gather(self._supervisor.publish(snapshot), self._followers.publish(snapshot))

    async def _start(self) -> None:
        await self._supervisor.start()
        await self._manager.start()  # takes its time if there are many registrations, as the workers do meanwhile
        await self._supervisor.ready()
        await self._watchdog.beat()
        log.info("handshaked %s is ready, %d registrations", __version__, len(self._manager.snapshot) - 1)
        notify(READY="1", STATUS=f"{len(self._manager.snapshot) - 1} registrations, {self._settings.workers} workers")
        self._tasks.keep(self._watchdog.run())
        self._tasks.keep(self._warn_of_expiry())
        self._tasks.keep(self._erasure.run())
        self._tasks.keep(self._rotate_ticket_keys())
        self._tasks.keep(self._bus.run())
        await self._exporter.start(self._metrics, self._settings.metrics)

    async def _figures(self) -> Figures:
        """Return what the metrics are made of."""
        workers = await self._supervisor.status()
        hub = self._manager.hub
        return Figures(
            counts=hub.tally,
            unreported=hub.left_out,
            registrations=sum(not one.internal for one in self._manager.snapshot.registrations),
            problems=len(self._manager.renewal.problems),
            expiries=self._manager.expiries(MAX_EXPIRIES),
            workers=workers,
            worker_restarts=self._supervisor.restarts,
        )

    async def _reload(self) -> None:
        notify_reloading()
        await self._manager.reload(_SELF)
        notify(READY="1")

    async def _warn_of_expiry(self) -> None:
        while True:
            self._manager.warn_of_expiry(time.time())
            await asyncio.sleep(_EXPIRY_SECONDS)

    async def _rotate_ticket_keys(self) -> None:
        while True:
            try:
                if self._store.rotate_ticket_keys(time.time()):
                    await self._supervisor.publish(self._manager.snapshot)
            except UnavailableError as error:
                log.error("ticket keys cannot be renewed, the old ones stay: %s", error)
            await asyncio.sleep(_ROTATION_SECONDS)

    def _on_outcomes(self, batch: Message) -> None:
        self._manager.hub.receive(batch)


def main() -> None:
    """Run the daemon in the foreground."""
    settings = Settings(**vars(command_line().parse_args()))
    try:
        configuration = _configuration(settings)
    except RefusedError as error:
        sys.exit(f"handshaked: {error}")
    if settings.check_config:
        problems = read_drop_ins(settings.configuration_directory / directories.DROP_INS).problems
        sys.exit("\n".join(f"handshaked: {problem}" for problem in problems) or 0)
    forbid_core_dumps()
    start_logging(settings.log_level or configuration.log_level or DEFAULT_LEVEL, "handshaked", settings.log_format)
    try:
        lock = _lock(settings.state_directory)
        _check_keylog(configuration)
        asyncio.run(_run(settings, configuration))
        os.close(lock)
    except (OSError, HandshakedError) as error:
        log.error("cannot run: %s", error)
        sys.exit(1)


def _configuration(settings: Settings) -> Configuration:
    """The configuration as it is now; RefusedError says what of it, or of the files it names, cannot be used."""
    path = settings.configuration or DEFAULT_PATH
    configuration = load_configuration(path, required=settings.configuration is not None)
    check_sides(configuration)
    return configuration


async def _run(settings: Settings, configuration: Configuration) -> None:
    await Daemon(settings, configuration).run()


def _check_keylog(configuration: Configuration) -> None:
    """RefusedError if secrets are to be logged where that cannot be done; the workers do it."""
    if configuration.keylog is not None:
        KeyLogFile(configuration.keylog).close()


def _door_options(settings: Settings, configuration: Configuration) -> list[str]:
    wanted = configuration.kernel.enabled if settings.kernel is None else settings.kernel
    options = [f"--configuration={settings.configuration or DEFAULT_PATH}"]
    if configuration.keylog is not None:
        options.append(f"--keylog={configuration.keylog}")
    if may_administer_network() if wanted is None else wanted:
        options += ["--kernel", *(f"--netns={name}" for name in settings.netns)]
    if settings.emulated_quic_sockets:
        options.append("--emulated-quic-sockets")
    return options


def command_line() -> RecordingParser:
    """The options of ``handshaked``, for itself and for its manual page."""
    parser = RecordingParser(
        prog="handshaked",
        description="TLS 1.3 handshakes for QUIC endpoints, with certificates chosen by server name and ALPN.",
    )
    parser.add_argument("--version", action="version", version=f"handshaked {__version__}")
    for name, default, words in (
        (
            "state",
            directories.state_directory(),
            "where registrations and their keys are kept; for root: /var/lib/handshaked",
        ),
        (
            "runtime",
            directories.runtime_directory(),
            "where the sockets are, unless systemd opens them; for root: /run/handshaked",
        ),
        (
            "configuration",
            directories.configuration_directory(),
            "whose registrations.d is followed; for root: /etc/handshaked",
        ),
    ):
        parser.add_argument(f"--{name}-directory", type=Path, default=default, metavar="DIR", help=words)
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help="worker processes")
    parser.add_argument(
        "--demux-user",
        default="handshaked-demux",
        metavar="USER",
        help="user (or uid) whose programs may follow all registrations, without their keys (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=LEVELS, help="info, unless the configuration says otherwise")
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default="auto",
        help="structured fields to the journal, JSON lines, or text; auto: the journal under systemd, else text",
    )
    parser.add_argument(
        "--bus",
        default=OFF,
        metavar="BUS",
        help="be on this D-Bus: system, session, an address, or none (the default)",
    )
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS",
        help="serve OpenMetrics at this path, or port of a loopback address, e.g. 127.0.0.1:9464; default: not at all",
    )
    parser.add_argument("--configuration", type=Path, metavar="FILE", help=f"settings in TOML, {DEFAULT_PATH} if there")
    parser.add_argument(
        "--check-config", action="store_true", help="only say what is wrong with the settings and with registrations.d"
    )
    parser.add_argument(
        "--kernel",
        action=argparse.BooleanOptionalAction,
        help="answer upcalls of the kernel; without it, if the daemon has the privilege (CAP_NET_ADMIN)",
    )
    parser.add_argument(
        "--netns",
        action="append",
        default=[],
        metavar="NAME",
        help="take upcalls of this network namespace, '.' for the own one; may be repeated; that one unless given",
    )
    parser.add_argument(
        "--emulated-quic-sockets",
        action="store_true",
        help="for tests: take socket pairs whose other end stands in for the kernel's QUIC, and no QUIC sockets",
    )
    return parser


def _followers_uids(demux_user: str) -> frozenset[int]:
    """Root, the daemon's own user, and the demultiplexer's if there is one."""
    uids = {0, os.geteuid()}
    with contextlib.suppress(RefusedError):
        uids.add(uid_of(demux_user))
    return frozenset(uids)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError("a number from 1 to 256")
    return number


def _lock(state_directory: Path) -> int:
    """Make sure that this daemon is the only one on its state."""
    state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(state_directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(f"another handshaked runs on {state_directory}") from None
    return lock


def _socket(passed: dict[str, socket.socket], path: Path) -> socket.socket:
    """The listening socket at `path`: the one that systemd has `passed`, else a new one.

    Everyone may connect to it: who may do what is decided by who they are.
    """
    if path.name in passed:
        return passed[path.name]
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    path.chmod(0o666)
    listener.listen(_BACKLOG)
    return listener


if __name__ == "__main__":
    main()
