"""What the programs in the lab share: an NFS server on loopback, mounts of it, a daemon that answers upcalls."""

import atexit
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
"""A network namespace for the NFS client."""
IN_CLIENT = ("nsenter", f"--net=/run/netns/{CLIENT}")
"""What starts a command there."""
PATIENCE = 120
"""How long to wait for what must come, in seconds: emulated machines are slow where others work, too."""
_SERVER_ADDRESS = "10.9.0.1"


def refused(process: subprocess.CompletedProcess[str]) -> None:
    """The mount was refused with EACCES."""
    assert process.returncode != 0, "mounted"
    assert "access denied" in process.stdout or "Permission denied" in process.stdout, process.stdout


def run(*command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, however it ends."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )


def must(*command: str) -> str:
    """Run a command that has to succeed; what it printed."""
    process = run(*command)
    assert process.returncode == 0, f"{command}: {process.stdout}"
    return process.stdout


def authority(name: str = "lab CA") -> Authority:
    """A certificate authority with its files in a place of its own."""
    directory = HERE / name.replace(" ", "-")
    directory.mkdir()
    return Authority(directory, name)


def serve_nfs(*, security: str = "tls:mtls", threads: int = 4) -> None:
    """An NFS server that exports a directory under these transport securities, past its grace period."""
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
    """The client's namespace, with a wire to the server, whose name now stands for the wire's end here."""
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
    """Try to mount the export; `options` begin with a comma, `launcher` starts the command elsewhere."""
    named = f"xprtsec={security},vers=4.2{options}"
    return run(*launcher, "mount", "-t", "nfs4", "-o", named, f"{server}:/", str(MOUNT))


@contextmanager
def mounted(
    server: str = "server.test", *, security: str = "tls", options: str = "", launcher: tuple[str, ...] = ()
) -> Iterator[Path]:
    """The export, mounted."""
    process = mount(server, security=security, options=options, launcher=launcher)
    assert process.returncode == 0, f"mount failed ({process.returncode}): {process.stdout}"
    try:
        yield MOUNT
    finally:
        must("umount", str(MOUNT))


def write_and_read(directory: Path) -> None:
    """A file goes to the server, and comes back."""
    content = b"0123456789abcdef" * 20_000
    (directory / "file").write_bytes(content)
    assert (EXPORT / "file").read_bytes() == content
    assert (directory / "greeting").read_text() == "hello"
    (EXPORT / "answer").write_bytes(content[::-1])
    assert (directory / "answer").read_bytes() == content[::-1]


def make_keyring(name: str) -> None:
    """A keyring like ``.nvme``: root may do everything with it, and has it only when it links it."""
    serial = must("keyctl", "newring", name, "@s").strip()
    must("keyctl", "setperm", serial, "0x3f3f0000")
    must("keyctl", "link", serial, "@u")
    must("keyctl", "unlink", serial, "@s")


def daemon(
    configuration: str = "", *, name: str = "daemon", workers: int = 1, options: tuple[str, ...] = ()
) -> RunningDaemon:
    """A daemon that answers the kernel, not started yet."""
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    file = directory / "handshaked.toml"
    file.write_text(configuration)
    running = RunningDaemon(
        directory,
        workers=workers,
        options=("--kernel", f"--configuration={file}", *options),
        launcher=("keyctl", "session", "-"),  # what others have in their session's keyring is not in its reach
    )
    atexit.register(_show, running)
    return running


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until `holds()`, for what nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"this did not come about: {what}"
        time.sleep(0.05)


def serving(running: RunningDaemon) -> None:
    """Wait until the kernel sources are serving in all workers."""

    def all_open() -> bool:
        status = running.ask("status")
        sources = [source for worker in status["workers"] for source in worker.get("kernel") or ()]
        return bool(sources) and all(source["state"] == "serving" for source in sources)

    until(all_open, "the kernel sources are serving")


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    return sorted(str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())


def logged(running: RunningDaemon, *words: str, count: int = 1) -> list[str]:
    """The lines of the log that have all `words`, as soon as there are `count` of them: outcomes come in batches."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = [line for line in running.log.read_text().splitlines() if all(word in line for word in words)]
        if len(lines) >= count:
            return lines
        assert time.monotonic() < deadline, f"{len(lines)} of {count} lines with {words}"
        time.sleep(0.05)


def _show(running: RunningDaemon) -> None:
    """Print the daemon's log, for whoever reads of a failure."""
    if running.log.exists():
        print("--- the daemon's log ---", running.log.read_text(), sep="\n", file=sys.stderr)
