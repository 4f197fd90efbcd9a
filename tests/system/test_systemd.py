"""Socket activation and notifications, with a socket of the test in the place of systemd."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from handshaked.control.client import ControlClient
from handshaked.system.directories import DATABASE
from tests.patience import PATIENCE

EXEC = """
import os, sys
count, listening = int(sys.argv[1]), list(map(int, sys.argv[2].split(",")))
for number, descriptor in enumerate(listening):
    os.dup2(descriptor, 100 + number)
for number in range(len(listening)):
    os.dup2(100 + number, 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(count)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Systemd:
    """The notifications received and the sockets passed in the place of systemd."""

    def __init__(self, directory: Path, *options: str, netlink: int = 0) -> None:
        self.directory = directory
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        self._notify.settimeout(PATIENCE)
        self.listeners = []
        for name in ("handshake.sock", "control.sock"):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(directory / name))
            listener.listen()
            self.listeners.append(listener)
        for _ in range(netlink):
            self.listeners.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16))
            self.listeners[-1].bind((0, 0))
        numbers = [listener.fileno() for listener in self.listeners]
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", EXEC, str(len(numbers)), ",".join(map(str, numbers)),
                sys.executable, "-m", "handshaked.daemon", f"--state-directory={directory}/state",
                f"--runtime-directory={directory}/elsewhere", f"--configuration-directory={directory}/etc",
                "--workers=1", "--no-kernel", "--log-level=error", *options,
            ],
            pass_fds=numbers, env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": "600000"},
        )  # fmt: skip

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self._notify, *self.listeners):
            sock.close()

    def hear(self, wanted: str) -> str:
        """Wait for a message that has the line `wanted`."""
        while True:
            message = self._notify.recv(4096).decode()
            if re.search(wanted, message, re.MULTILINE):
                return message

    def heard_until(self, wanted: str) -> str:
        """Return all messages up to the one that has the line `wanted`."""
        heard = ""
        while not re.search(wanted, heard, re.MULTILINE):
            heard += self._notify.recv(4096).decode() + "\n"
        return heard


@contextmanager
def service(directory: Path, *options: str, netlink: int = 0) -> Iterator[Systemd]:
    systemd = Systemd(directory, *options, netlink=netlink)
    try:
        yield systemd
    finally:
        systemd.process.terminate()
        systemd.process.wait(30)
        systemd.close()


def test_daemon_uses_inherited_sockets_and_notifies_systemd(public_directory: Path) -> None:
    with service(public_directory) as systemd:
        systemd.hear("^READY=1$")
        with ControlClient(public_directory / "control.sock") as client:
            assert client.ask("status", {})["pid"] == systemd.process.pid
        assert not (public_directory / "elsewhere").exists()
        systemd.hear("^WATCHDOG=1$")
        systemd.process.send_signal(signal.SIGHUP)
        assert re.search(r"^MONOTONIC_USEC=\d+$", systemd.hear("^RELOADING=1$"), re.MULTILINE)
        systemd.hear("^READY=1$")
        systemd.process.terminate()
        systemd.hear("^STOPPING=1$")
        assert systemd.process.wait(30) == 0
        assert (public_directory / "handshake.sock").exists()


def test_watchdog_is_not_notified_without_a_successful_handshake(public_directory: Path) -> None:
    """The daemon runs and its control socket answers, but no handshake succeeds: its registration is gone."""
    with service(public_directory) as systemd:
        systemd.hear("^WATCHDOG=1$")
        with closing(sqlite3.connect(public_directory / "state" / DATABASE)) as db:
            db.execute("DELETE FROM registration")
            db.commit()
        with ControlClient(public_directory / "control.sock") as client:
            [worker] = client.ask("status", {})["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        systemd.hear("^STATUS=the self-test failed: server: ")
        for _ in range(3):  # several runs of the watchdog, each of which reports its result
            assert "WATCHDOG=1" not in systemd.heard_until("^STATUS=the self-test failed")
        with ControlClient(public_directory / "control.sock") as client:
            assert client.ask("status", {})["self_test"].startswith("server: ")


def test_workers_with_netlink_sockets_of_systemd_handle_upcalls(public_directory: Path) -> None:
    """The other workers do not: no request arrives in the service's own network namespace."""
    with service(public_directory, "--workers=2", "--kernel", "--netns=.", netlink=2) as systemd:
        systemd.hear("^READY=1$")
        with ControlClient(public_directory / "control.sock") as client:
            workers = client.ask("status", {})["workers"]
        served = [[source["network_namespace"] for source in worker["kernel"]] for worker in workers]
        assert served == [["."], []]
