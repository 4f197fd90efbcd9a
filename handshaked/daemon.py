"""``handshaked``: the only place that names concrete sources and wires them together."""

import argparse
import asyncio
import fcntl
import logging
import os
import pwd
import signal
import socket
import sys
import time
from pathlib import Path

from handshaked import __version__, directories
from handshaked.control.arguments import Arguments
from handshaked.control.channel import Message
from handshaked.control.following import Followers
from handshaked.control.manager import Manager
from handshaked.control.server import ControlServer
from handshaked.errors import HandshakedError, RefusedError
from handshaked.model import Caller
from handshaked.process import LEVELS, forbid_core_dumps, log_to_stderr
from handshaked.registry.snapshot import Snapshot
from handshaked.registry.store import Store
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

    def __init__(
        self, state_directory: Path, runtime_directory: Path, workers: int, log_level: str, demux_uid: int | None
    ) -> None:
        self._started = time.time()
        self._store = Store(state_directory / directories.DATABASE)
        self._store.forget_unused()
        self._store.rotate_ticket_keys(time.time())
        self._listener = _listen(runtime_directory / directories.HANDSHAKE_SOCKET)
        self._control = _listen(runtime_directory / directories.CONTROL_SOCKET)
        self._supervisor = Supervisor(self._listener, state_directory, workers, log_level)
        self._manager = Manager(self._store, self._publish)
        self._followers = Followers(self._manager.snapshot)
        self._may_follow = {0, os.geteuid(), demux_uid}

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

    async def _publish(self, snapshot: Snapshot) -> None:
        await asyncio.gather(self._supervisor.publish(snapshot), self._followers.publish(snapshot))

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
        if command == "follow":
            if caller.uid not in self._may_follow:
                raise RefusedError(f"uid {caller.uid} may not follow the registrations; see --demux-user")
            return await self._followers.follow(arguments)
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
    forbid_core_dumps()
    log_to_stderr(arguments.log_level, "handshaked")
    try:
        lock = _lock(arguments.state_directory)
        asyncio.run(_run(arguments))
        os.close(lock)
    except (OSError, HandshakedError) as error:
        log.error("cannot run: %s", error)
        sys.exit(1)


async def _run(arguments: argparse.Namespace) -> None:
    await Daemon(
        arguments.state_directory,
        arguments.runtime_directory,
        arguments.workers,
        arguments.log_level,
        _uid(arguments.demux_user),
    ).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handshaked",
        description="TLS 1.3 handshakes for QUIC endpoints, with certificates chosen by server name and ALPN.",
    )
    parser.add_argument("--version", action="version", version=f"handshaked {__version__}")
    parser.add_argument("--state-directory", type=Path, default=directories.state_directory(), metavar="DIR")
    parser.add_argument("--runtime-directory", type=Path, default=directories.runtime_directory(), metavar="DIR")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help="worker processes")
    parser.add_argument(
        "--demux-user",
        default="handshaked-demux",
        metavar="USER",
        help="user (or uid) whose programs may follow all registrations, without their keys",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    return parser


def _uid(user: str) -> int | None:
    """The uid of `user`; None if there is no such user."""
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


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
