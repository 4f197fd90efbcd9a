"""Run a private daemon: started in a directory of its own, awaited until it is ready, and stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from handshaked.control.client import ControlClient
from handshaked.errors import RefusedError
from handshaked.system import directories

_START_SECONDS = 90.0
_STOP_SECONDS = 30.0


class RunningDaemon:
    """A daemon with all its files below `directory`, as a context manager. ``log`` is the path of its log.

    It runs with `environment` added to ours, and inherits `sockets`, which a `launcher` passes on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 2,
        user: int | None = None,
        log_level: str = "info",
        options: tuple[str, ...] = ("--no-kernel",),
        launcher: tuple[str, ...] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        sockets: tuple[socket.socket, ...] = (),
    ) -> None:
        self.directory = directory
        self.state_directory = directory / "state"
        self.runtime_directory = directory / "run"
        self.handshake_socket = self.runtime_directory / directories.HANDSHAKE_SOCKET
        self.control_socket = self.runtime_directory / directories.CONTROL_SOCKET
        self.drop_ins = directory / "etc" / directories.DROP_INS
        self.log = directory / "daemon.log"
        self._workers = workers
        self._user = user
        self._log_level = log_level
        self._options = options
        self._command = (*launcher, python)
        self._environment = {**os.environ, **(environment or {})}
        self._sockets = sockets
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The pid of the parent process."""
        if self._process is None:
            raise RuntimeError("the daemon is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and wait until all workers answer. RuntimeError with the log if it fails."""
        command = [
            *self._command, "-m", "handshaked.daemon",
            f"--state-directory={self.state_directory}", f"--runtime-directory={self.runtime_directory}",
            f"--configuration-directory={self.drop_ins.parent}",
            f"--workers={self._workers}", f"--log-level={self._log_level}",
            *self._options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=self._user, group=self._user, extra_groups=None if self._user is None else [],
                env=self._environment, pass_fds=[sock.fileno() for sock in self._sockets],
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the daemon did not start:\n{self.log.read_text()}")
            self._ready.wait(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the daemon with the signal `number`, and with SIGKILL after a timeout. Return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait(_STOP_SECONDS)
        self._process = None
        return status

    def ask(self, command: str, paths: tuple[Path, ...] = (), **arguments: Any) -> dict[str, Any]:
        """Send a control command with the files at `paths` attached. Return its result."""
        descriptors = tuple(os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths)
        try:
            with ControlClient(self.control_socket) as client:
                return client.ask(command, arguments, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def register(
        self, name: str, *credentials: tuple[Path, Path], alpns: list[str], **arguments: Any
    ) -> dict[str, Any]:
        """Register `credentials` (certificate and key files) under `name`."""
        return self.ask(
            "register",
            tuple(path for pair in credentials for path in pair),
            name=name,
            alpns=alpns,
            credentials=[{"certificate": str(certificate), "key": str(key)} for certificate, key in credentials],
            **arguments,
        )

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`. RuntimeError with the daemon's log after a timeout."""
        deadline = time.monotonic() + _START_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"timeout while waiting for a condition:\n{self.log.read_text()}")
            self._ready.wait(0.02)

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that answer."""
        return [worker["pid"] for worker in self.ask("status")["workers"] if worker["answers"]]

    def _serves(self) -> bool:
        try:
            status = self.ask("status")
            answering = [one for one in status["workers"] if one["answers"]]
            return status["pid"] == self.pid and status["self_test"] == "ok" and len(answering) == self._workers
        except (RefusedError, OSError):
            return False
