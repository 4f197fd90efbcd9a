"""Run a private demultiplexer next to a private daemon, and servers behind it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from handshaked.demux.sockets import OwnSockets
from handshaked.system.listening import open_listener
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.ports import free_port
from handshaked.testing.processes import ending
from handshaked.wire.demux import MAX_PACKET, StatusAnswer, pull_from_demux, push_status

_STOP_SECONDS = 30.0
_ANSWER_SECONDS = 30.0
_ACTIVATION = """
import fcntl, os, sys
for place, held in enumerate([fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]], 3):
    os.dup2(held, place)
    os.close(held)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
os.execv(sys.argv[3], sys.argv[3:])
"""


class RunningDemux:
    """A demultiplexer on ``port`` of loopback with its socket below `directory`, as a context manager.

    As root it runs as `user`, whom the daemon must allow to follow its registrations. With `activated` its sockets are
    opened here and stay open across restarts, as with systemd's socket activation.
    """

    def __init__(
        self,
        directory: Path,
        daemon: RunningDaemon,
        *,
        user: int | None = None,
        options: tuple[str, ...] = (),
        host: str = "127.0.0.1",
        activated: bool = False,
    ) -> None:
        self.socket = directory / "demux" / "accept.sock"
        self.log = directory / "demux.log"
        self.port = free_port()
        user = user if os.geteuid() == 0 else None
        program = ["handshaked.demux.main"] if user is None else ["handshaked.testing.demux_as_user", str(user)]
        self._command = [
            sys.executable, "-m", *program, f"--socket={self.socket}",
            f"--control={daemon.control_socket}", f"--listen={f'[{host}]' if ':' in host else host}:{self.port}",
            *options,
        ]  # fmt: skip
        self.socket.parent.mkdir()
        if user is not None:
            os.chown(self.socket.parent, user, user)
        self._held: list[socket.socket] = []
        if activated:
            address = (host, self.port, 0, 0) if ":" in host else (host, self.port)
            self._held = [OwnSockets().shared(address), open_listener(self.socket)]
            shared, listener = (sock.fileno() for sock in self._held)
            self._command = [sys.executable, "-c", _ACTIVATION, str(shared), str(listener), *self._command]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        for sock in self._held:
            sock.close()

    @property
    def pid(self) -> int:
        """The pid of the process."""
        if self._process is None:
            raise RuntimeError("the demultiplexer is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the demultiplexer and wait until it is ready. RuntimeError with its log if it fails."""
        notices = self.socket.parent / "notify"
        notices.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            ready.bind(os.fspath(notices))
            notices.chmod(0o666)
            ready.settimeout(0.1)
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": os.fspath(notices)},
                pass_fds=[sock.fileno() for sock in self._held],
            )
            if not self._becomes_ready(ready):
                self.stop()
                raise RuntimeError(f"the demultiplexer did not start:\n{self.log.read_text()}")

    def _becomes_ready(self, ready: socket.socket) -> bool:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return ready.recv(100) == b"READY=1"
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the demultiplexer with the signal `number`, and with SIGKILL after a timeout. Return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self.exit_status()

    def exit_status(self) -> int:
        """Wait until the demultiplexer ends, and kill it after a timeout. Return its exit status."""
        if self._process is None:
            raise RuntimeError("the demultiplexer is not running")
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait(_STOP_SECONDS)
        self._process = None
        return status

    def metrics(self) -> dict[str, float]:
        """Return its counters and gauges, by name without the prefix ``handshaked_demux_``."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_ANSWER_SECONDS)
            sock.connect(os.fspath(self.socket))
            sock.send(push_status(1))
            ((_, answer),) = pull_from_demux(sock.recv(MAX_PACKET))
        if not isinstance(answer, StatusAnswer):
            raise RuntimeError(f"unexpected answer to the status query: {answer}")
        pairs = (line.rsplit(" ", 1) for line in answer.metrics.splitlines())
        return {name.removeprefix("handshaked_demux_"): float(value) for name, value in pairs}


@contextmanager
def smb_server(
    daemon: RunningDaemon,
    demux: RunningDemux,
    *registrations: str,
    user: int | None = None,
    module: str = "handshaked.testing.smb_server",
) -> Iterator[subprocess.Popen[str]]:
    """Run the SMB server, or another `module`, for `registrations` behind `demux`; as root it runs as `user`."""
    command = [sys.executable, "-m", module]
    command += [f"--daemon={daemon.handshake_socket}", f"--demux={demux.socket}", *registrations]
    if user is not None and os.geteuid() == 0:
        command.append(f"--user={user}")
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:  # noqa: S603 - our own program
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("the server did not start")
            yield process
        finally:
            process.terminate()


@contextmanager
def smb_server_on_own_port(daemon: RunningDaemon) -> Iterator[int]:
    """Run an SMB server on a UDP port of its own, and yield the port."""
    command = [sys.executable, "-m", "handshaked.testing.smb_server", f"--daemon={daemon.handshake_socket}"]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:  # noqa: S603 - our own program
        try:
            if process.stdout is None:
                raise RuntimeError("no output to read the port from")
            yield int(process.stdout.readline())
        finally:
            process.terminate()
