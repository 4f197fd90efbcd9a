"""Shared by programs in the lab: an NFS server on loopback, mounts of it, and a daemon that serves the kernel."""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon

HERE = Path.cwd()
MOUNT = HERE / "mnt"
EXPORT = HERE / "export"
CLIENT = "client"
"""The network namespace of the NFS client."""
IN_CLIENT = ("nsenter", f"--net=/run/netns/{CLIENT}")
"""The prefix of commands that run there."""
PATIENCE = 120
"""Seconds to wait for an expected event: emulated machines are slow on busy hosts."""
ORDINARY_UID = 998
AS_ORDINARY_USER = ("setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups")
"""The prefix of commands of an ordinary user."""
SANDBOX = (*AS_ORDINARY_USER, "--inh-caps=+net_admin", "--ambient-caps=+net_admin")
"""The prefix of a daemon's command with the user and the capability that it has in ``handshaked.service``."""
_SERVER_ADDRESS = "10.9.0.1"


def refused(process: subprocess.CompletedProcess[str]) -> None:
    """Check that a mount was refused with EACCES."""
    assert process.returncode != 0, "mounted"
    assert "access denied" in process.stdout or "Permission denied" in process.stdout, process.stdout


def run(*command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its output captured."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )


def must(*command: str) -> str:
    """Run a command that must succeed. Return its output."""
    process = run(*command)
    assert process.returncode == 0, f"{command}: {process.stdout}"
    return process.stdout


def wait_until_inactive(unit: str, otherwise: str) -> None:
    """Wait until systemd has stopped `unit`, which it does together with another one; AssertionError if it does not."""
    deadline = time.monotonic() + PATIENCE
    while (state := run("systemctl", "is-active", unit).stdout.strip()) != "inactive":
        assert time.monotonic() < deadline, f"{unit} is {state}: {otherwise}"
        time.sleep(0.1)


def authority(name: str = "lab CA") -> Authority:
    """Make a certificate authority with a directory of its own."""
    directory = HERE / name.replace(" ", "-")
    directory.mkdir()
    return Authority(directory, name)


def serve_nfs(*, security: str = "tls:mtls", threads: int = 4) -> None:
    """Start an NFS server that exports a directory with the transport security `security`, without a grace period."""
    must("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    Path("/run/rpc_pipefs").mkdir()
    must("mount", "-t", "rpc_pipefs", "rpc_pipefs", "/run/rpc_pipefs")
    EXPORT.mkdir()
    must("mount", "-t", "tmpfs", "tmpfs", str(EXPORT))
    (EXPORT / "greeting").write_text("hello")
    options = f"rw,fsid=0,no_root_squash,insecure,no_subtree_check,xprtsec={security}"
    must("exportfs", "-o", options, f"*:{EXPORT}")
    must("nfsdcld")  # without it the grace period lasts 90 s
    must("rpc.mountd")
    must("rpc.nfsd", "--no-nfs-version", "3", str(threads))
    MOUNT.mkdir()


def make_client_namespace() -> None:
    """Make the client's namespace and a veth link to it; the server's name then resolves to this end of the link."""
    must("ip", "netns", "add", CLIENT)
    must("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", CLIENT)
    must("ip", "address", "add", f"{_SERVER_ADDRESS}/24", "dev", "wire")
    must("ip", "link", "set", "wire", "up")
    must("ip", "-n", CLIENT, "address", "add", "10.9.0.2/24", "dev", "wire")
    must("ip", "-n", CLIENT, "link", "set", "wire", "up")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{_SERVER_ADDRESS} server.test\n10.9.0.2 client.test\n")


def mount(
    server: str = "server.test", *, security: str = "tls", options: str = "", launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Try to mount the export; `options` begin with a comma, `launcher` is a prefix of the command."""
    named = f"xprtsec={security},vers=4.2{options}"
    return run(*launcher, "mount", "-t", "nfs4", "-o", named, f"{server}:/", str(MOUNT))


@contextmanager
def mounted(
    server: str = "server.test", *, security: str = "tls", options: str = "", launcher: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Mount the export and yield the mount point."""
    process = mount(server, security=security, options=options, launcher=launcher)
    assert process.returncode == 0, f"mount failed ({process.returncode}): {process.stdout}"
    try:
        yield MOUNT
    finally:
        must("umount", str(MOUNT))


def write_and_read(directory: Path) -> None:
    """Write a file to the server, and read files back."""
    content = b"0123456789abcdef" * 20_000
    (directory / "file").write_bytes(content)
    assert (EXPORT / "file").read_bytes() == content
    assert (directory / "greeting").read_text() == "hello"
    (EXPORT / "answer").write_bytes(content[::-1])
    assert (directory / "answer").read_bytes() == content[::-1]


def make_keyring(name: str) -> None:
    """Make a keyring like ``.nvme``: root has all permissions on it, but does not possess it unless it is linked."""
    serial = must("keyctl", "newring", name, "@s").strip()
    must("keyctl", "setperm", serial, "0x3f3f0000")
    must("keyctl", "link", serial, "@u")
    must("keyctl", "unlink", serial, "@s")


def daemon(
    configuration: str = "",
    *,
    name: str = "daemon",
    workers: int = 1,
    options: tuple[str, ...] = (),
    launcher: tuple[str, ...] = (),
) -> RunningDaemon:
    """Return a daemon that serves the kernel, not started yet; `launcher` is a prefix of its command."""
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    if launcher:
        os.chown(directory, ORDINARY_UID, ORDINARY_UID)
    file = directory / "handshaked.toml"
    file.write_text(configuration)
    running = RunningDaemon(
        directory,
        workers=workers,
        options=("--kernel", f"--configuration={file}", *options),
        launcher=(*launcher, "keyctl", "session", "-"),  # without access to the session keyring of others
    )
    atexit.register(_show, running)
    return running


def until(holds: Callable[[], bool], what: str) -> None:
    """Poll until `holds()`, for events that are not announced."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"timeout while waiting for: {what}"
        time.sleep(0.05)


def serving(running: RunningDaemon) -> None:
    """Wait until the kernel sources are serving in all workers."""

    def all_open() -> bool:
        status = running.ask("status")
        sources = [source for worker in status["workers"] for source in worker.get("kernel") or ()]
        return bool(sources) and all(source["state"] == "serving" for source in sources)

    until(all_open, "the kernel sources are serving")


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process refer to."""
    return sorted(str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())


def logged(running: RunningDaemon, *words: str, count: int = 1) -> list[str]:
    """Wait for `count` lines of the log with all `words`, because outcomes are logged in batches. Return the lines."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = [line for line in running.log.read_text().splitlines() if all(word in line for word in words)]
        if len(lines) >= count:
            return lines
        assert time.monotonic() < deadline, f"{len(lines)} of {count} lines with {words}"
        time.sleep(0.05)


def _show(running: RunningDaemon) -> None:
    """Print the daemon's log, for the analysis of failures."""
    if running.log.exists():
        print("--- the daemon's log ---", running.log.read_text(), sep="\n", file=sys.stderr)
