"""NVMe/TCP over TLS with pre-shared keys: host and target on loopback, both sides' handshakes by the daemon.

Blocks are written and read back with keys of both hashes. Keys that the target does not have are refused, and ``nvme
connect`` fails without waiting for a timeout.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handshaked.testing.daemon import RunningDaemon
from tests.kernel.inside.scene import SANDBOX, daemon, logged, make_keyring, must, run, serving, until

HOST_ID = "11111111-2222-3333-4444-555555555555"
HOST = f"nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}"
SUBSYSTEM = "nqn.test"
PAIR = (f"--hostnqn={HOST}", f"--subsysnqn={SUBSYSTEM}")
BACKING = Path("/dev/nullb0")
BLOCK = 64 * 1024
SOON = 8  # seconds; the consumers' own timeout is 10


def serve() -> None:
    """Set up a target on loopback that requires TLS; its namespace is a block device in memory."""
    must("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    must("modprobe", "null_blk", "memory_backed=1", "gb=1")
    must("modprobe", "-a", "nvmet_tcp", "nvme_tcp")
    target = Path("/sys/kernel/config/nvmet")
    subsystem = target / "subsystems" / SUBSYSTEM
    namespace = subsystem / "namespaces" / "1"
    namespace.mkdir(parents=True)
    (subsystem / "attr_allow_any_host").write_text("1")
    (namespace / "device_path").write_text(str(BACKING))
    (namespace / "enable").write_text("1")
    port = target / "ports" / "1"
    port.mkdir()
    settings = {"trtype": "tcp", "adrfam": "ipv4", "traddr": "127.0.0.1", "trsvcid": "4420"}
    for name, value in {**settings, "treq": "required", "tsas": "tls1.3"}.items():
        (port / f"addr_{name}").write_text(value)
    (port / "subsystems" / SUBSYSTEM).symlink_to(subsystem)


def insert_key(secret: str, *, hmac: int, identity: int, keyring: str = ".nvme") -> int:
    """Derive the TLS key of `secret` for host and target, and add it to `keyring`. Return its serial."""
    versions = (f"--hmac={hmac}", f"--identity={identity}")
    interchange = must("nvme", "gen-tls-key", *versions, *PAIR, f"--secret={secret}").strip()
    said = must(
        "nvme", "check-tls-key", "--insert", f"--keydata={interchange}", f"--identity={identity}",
        f"--keyring={keyring}", *PAIR,
    )  # fmt: skip
    print(said)
    return int(said.split()[-1].rstrip("."), 16)


def connect(*options: str) -> str | None:
    """Try to connect the host with TLS. Return the output of a failure, which must be fast, or None."""
    started = time.monotonic()
    process = run(
        "nvme", "connect", "--transport=tcp", "--traddr=127.0.0.1", "--trsvcid=4420", f"--nqn={SUBSYSTEM}",
        f"--hostnqn={HOST}", f"--hostid={HOST_ID}", "--nr-io-queues=2", "--tls", *options,
    )  # fmt: skip
    took = time.monotonic() - started
    print(f"nvme connect {options}: {process.returncode} after {took:.1f} s: {process.stdout}")
    assert took < SOON, took
    return process.stdout if process.returncode else None


@contextmanager
def connected(*options: str) -> Iterator[Path]:
    """Connect the host and yield its block device."""
    assert connect(*options) is None
    device = Path("/dev/nvme0n1")
    try:
        until(device.is_block_device, "the namespace has a block device")
        yield device
    finally:
        must("nvme", "disconnect", f"--nqn={SUBSYSTEM}")


def write_and_read(device: Path) -> None:
    """Write blocks to the target and read them back, bypassing caches."""
    content = os.urandom(BLOCK)
    assert direct(device, os.O_WRONLY, content) == content
    assert direct(BACKING, os.O_RDONLY) == content, "the target has what the host wrote"
    assert direct(device, os.O_RDONLY) == content, "the host reads what it wrote"


def direct(device: Path, mode: int, content: bytes | None = None) -> bytes:
    """Read the first blocks of `device`, or write them."""
    descriptor = os.open(device, mode | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as buffer:
            if content is None:
                assert os.readv(descriptor, [buffer]) == BLOCK
            else:
                buffer[:] = content
                assert os.writev(descriptor, [buffer]) == BLOCK
            return buffer[:]
    finally:
        os.close(descriptor)


def refused(running: RunningDaemon, *options: str, client: str, server: str | None = None) -> None:
    """Check that the host is refused, and that the daemon logs these reasons (`server` None: no server handshake)."""
    assert connect(*options) is not None, "connected"
    for role, reason in (("client", client), ("server", server)):
        if reason is not None:
            logged(running, "outcome=failed", f"role={role}", reason)


make_keyring("of-the-host")

with daemon(name="first") as running:
    serving(running)
    serve()  # the modules create the keyring .nvme, after the daemon has started
    for hmac, cipher in ((1, "AES_128_GCM_SHA256"), (2, "AES_256_GCM_SHA384")):
        insert_key("00112233445566778899aabbccddeeff" * (hmac + 1), hmac=hmac, identity=1)
        with connected() as device:
            write_and_read(device)
        for role in ("client", "server"):  # one admin queue and two I/O queues
            logged(running, "outcome=ok", f"role={role}", f"cipher={cipher}", f'psk="NVMe1R0{hmac} {HOST}', count=3)
    assert "outcome=failed" not in running.log.read_text()

    # A key that only its possessor may read, in a keyring that the daemon does not search.
    serial = insert_key("aa" * 32, hmac=1, identity=0, keyring="of-the-host")
    by_key = ("--keyring=of-the-host", f"--tls-key={serial}")
    refused(running, *by_key, client="cannot be read: Permission denied")

    # The daemon can read it by serial; the target has no key for that identity, then one with another secret.
    must("keyctl", "setperm", str(serial), "0x3f030000")
    refused(running, *by_key, client="unknown_psk_identity", server="unknown_psk_identity")
    insert_key("bb" * 32, hmac=1, identity=0)
    refused(running, *by_key, client="decrypt_error", server="invalid PSK binder")

    with connected() as device:
        write_and_read(device)

# A key in a configured keyring is found by both sides.
serial = insert_key("cc" * 48, hmac=2, identity=0, keyring="of-the-host")
with daemon('[kernel]\nkeyrings = ["of-the-host"]\n', name="second") as running:
    serving(running)
    with connected("--keyring=of-the-host", f"--tls-key={serial}") as device:
        write_and_read(device)
    for role in ("client", "server"):
        logged(running, "outcome=ok", f"role={role}", f'psk="NVMe0R02 {HOST}', count=3)
    assert "outcome=failed" not in running.log.read_text()

# As an ordinary user, the daemon cannot accept the request, which names a keyring of root: the log says what to do.
with daemon(name="ordinary", launcher=SANDBOX) as running:
    serving(running)
    assert connect() is not None, "connected"
    logged(running, "ACCEPT failed: EACCES", ".nvme", "User=root")
