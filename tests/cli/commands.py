"""Run ``handshakectl`` on a daemon, in a pipe or on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from handshaked.model import Role
from handshaked.shim import BlockingClient
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.processes import ending
from handshaked.wire.messages import Start

PROGRAM = Path(sys.executable).with_name("handshakectl")

NAME = "www.example.com"


def run(daemon: RunningDaemon, *words: str, status: int = 0) -> str:
    """Return the output of a command in a pipe."""
    command = [str(PROGRAM), words[0], f"--socket={daemon.control_socket}", *words[1:]]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout + process.stderr


def run_on_terminal(daemon: RunningDaemon, *words: str, **environment: str) -> str:
    """Return the output of a command on a terminal."""
    ours, theirs = pty.openpty()
    command = [str(PROGRAM), words[0], f"--socket={daemon.control_socket}", *words[1:]]
    with ending(
        subprocess.Popen(
            command,
            stdout=theirs,
            stderr=theirs,
            stdin=theirs,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # the terminal's other end is closed
            pass
        process.wait(60)
    os.close(ours)
    return said.decode()


def fail(daemon: RunningDaemon, count: int) -> None:
    with BlockingClient(daemon.handshake_socket) as channel:
        for _ in range(count):
            channel.start(Start(role=Role.CLIENT))
