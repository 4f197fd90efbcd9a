"""``handshaked``: the only place that names concrete sources and wires them together."""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from handshaked import __version__, directories
from handshaked.configuration import DEFAULT_PATH, Configuration, load_configuration
from handshaked.control.arguments import Arguments
from handshaked.control.channel import Message
from handshaked.control.manager import Manager
from handshaked.control.server import ControlServer
from handshaked.errors import HandshakedError, RefusedError
from handshaked.model import Caller
from handshaked.process import LEVELS, forbid_core_dumps, log_to_stderr, may_administer_network
from handshaked.registry.store import Store
from handshaked.sides import check_sides
from handshaked.supervisor import Supervisor
from handshaked.upcall.unix import caller_of

log = logging.getLogger(__name__)

_BACKLOG = 4096
_SELF = Caller(os.geteuid())
_ROTATION_CHECK_SECONDS = 600.0
# A snapshot that a handshake pinned lives as long as the longest handshake: then old credentials may go.
_FORGET_SECONDS = 120.0


class Daemon:
    """The parent process: the registry's only writer, the control socket, and the workers' keeper."""

    def __init__(self, arguments: argparse.Namespace, configuration: Configuration) -> None:
        state_directory, runtime_directory = arguments.state_directory, arguments.runtime_directory
        self._started = time.time()
        self._store = Store(state_directory / directories.DATABASE)
        self._store.forget_unused()
        self._store.rotate_ticket_keys(time.time())
        self._listener = _listen(runtime_directory / directories.HANDSHAKE_SOCKET)
        self._control = _listen(runtime_directory / directories.CONTROL_SOCKET)
        self._supervisor = Supervisor(
            self._listener,
            state_directory,
            arguments.workers,
            arguments.log_level,
            _worker_options(arguments, configuration),
        )
        self._manager = Manager(self._store, self._supervisor.publish)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        reloads: set[asyncio.Task[Message]] = set()
        loop.add_signal_handler(signal.SIGHUP, lambda: _keep(reloads, asyncio.create_task(self._manager.reload(_SELF))))
        control = ControlServer(self._control, self._handle, caller_of)
        ready = asyncio.create_task(self._supervisor.start())
        ready.add_done_callback(self._say_ready)
        rotation = asyncio.create_task(self._rotate_ticket_keys())
        await stop.wait()
        rotation.cancel()
        _notify("STOPPING=1")
        log.info("stopping")
        ready.cancel()
        await control.close()
        await self._supervisor.stop()
        self._store.close()

    async def _rotate_ticket_keys(self) -> None:
        while True:
            await asyncio.sleep(_ROTATION_CHECK_SECONDS)
            if self._store.rotate_ticket_keys(time.time()):
                await self._supervisor.publish(self._manager.snapshot)

    def _say_ready(self, start: asyncio.Task[None]) -> None:
        if start.cancelled():
            return
        start.result()
        log.info("handshaked %s is ready, %d registrations", __version__, len(self._manager.snapshot))
        _notify("READY=1")

    async def _handle(
        self, command: str, caller: Caller, arguments: Arguments, descriptors: tuple[int, ...]
    ) -> Message:
        manager = self._manager
        if command == "register":
            return await manager.register(caller, arguments, descriptors)
        if descriptors:
            raise RefusedError(f"{command} takes no files")
        if command == "unregister":
            return await manager.unregister(caller, arguments)
        if command == "list":
            return manager.registrations(caller, arguments)
        if command == "show":
            return manager.show(caller, arguments)
        if command == "explain":
            return manager.explain(caller, arguments)
        arguments.end()
        if command == "status":
            return await self._status()
        if command == "reload":
            return await manager.reload(caller)
        raise RefusedError(f"there is no command {command!r}")

    async def _status(self) -> Message:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": time.time() - self._started,
            "registrations": len(self._manager.snapshot),
            "workers": await self._supervisor.status(),
            "worker_restarts": self._supervisor.restarts,
        }


def main() -> None:
    """Run the daemon in the foreground."""
    arguments = _parser().parse_args()
    try:
        configuration = load_configuration(
            arguments.configuration or DEFAULT_PATH, required=arguments.configuration is not None
        )
        check_sides(configuration)
    except RefusedError as error:
        sys.exit(f"handshaked: {error}")
    if arguments.check_config:
        return
    arguments.log_level = arguments.log_level or configuration.log_level or "info"
    forbid_core_dumps()
    log_to_stderr(arguments.log_level, "handshaked")
    try:
        lock = _lock(arguments.state_directory)
        asyncio.run(_run(arguments, configuration))
        os.close(lock)
    except (OSError, HandshakedError) as error:
        log.error("cannot run: %s", error)
        sys.exit(1)


async def _run(arguments: argparse.Namespace, configuration: Configuration) -> None:
    await Daemon(arguments, configuration).run()


def _worker_options(arguments: argparse.Namespace, configuration: Configuration) -> list[str]:
    wanted = configuration.kernel.enabled if arguments.kernel is None else arguments.kernel
    options = [f"--configuration={arguments.configuration or DEFAULT_PATH}"]
    if may_administer_network() if wanted is None else wanted:
        options += ["--kernel", *(f"--netns={name}" for name in arguments.netns)]
    if arguments.emulated_quic_sockets:
        options.append("--emulated-quic-sockets")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handshaked",
        description="TLS 1.3 handshakes for QUIC endpoints, with certificates chosen by server name and ALPN.",
    )
    parser.add_argument("--version", action="version", version=f"handshaked {__version__}")
    parser.add_argument("--state-directory", type=Path, default=directories.state_directory(), metavar="DIR")
    parser.add_argument("--runtime-directory", type=Path, default=directories.runtime_directory(), metavar="DIR")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help="worker processes")
    parser.add_argument("--log-level", choices=LEVELS, help="info, unless the configuration says otherwise")
    parser.add_argument("--configuration", type=Path, metavar="FILE", help=f"settings in TOML, {DEFAULT_PATH} if there")
    parser.add_argument("--check-config", action="store_true", help="only say what is wrong with the configuration")
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
        help="take upcalls of this network namespace",
    )
    parser.add_argument(
        "--emulated-quic-sockets",
        action="store_true",
        help="for tests: take socket pairs whose other end stands in for the kernel's QUIC, and no QUIC sockets",
    )
    return parser


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


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path` that everyone may connect to: who may do what is decided by who they are."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    path.chmod(0o666)
    listener.listen(_BACKLOG)
    return listener


def _notify(state: str) -> None:
    """Tell systemd of `state`, if it wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)


def _keep(tasks: set[asyncio.Task[Message]], task: asyncio.Task[Message]) -> None:
    """Hold on to `task` until it is done."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    main()
