"""Under systemd in the lab: the sandboxed service serves the kernel, and a drop-in extends its privileges.

Entering other network namespaces takes a capability, and root's keyrings, such as ``.nvme``, take its user. Without the
drop-in the service runs without them and logs why.
"""

import json
import os
import signal
import time
from pathlib import Path

from handshaked.testing.authority import Authority
from tests.kernel.inside.scene import (
    PATIENCE,
    make_keyring,
    mounted,
    must,
    run,
    serve_nfs,
    wait_until_inactive,
    write_and_read,
)

NET_ADMIN, SYS_ADMIN = 12, 21
CERTIFICATES = Path("/srv/certificates")
CONFIGURATION = Path("/etc/handshaked/handshaked.toml")
DROP_IN = Path("/run/systemd/system/handshaked.service.d/kernel.conf")
SETTINGS = """[Service]
AmbientCapabilities=CAP_SYS_ADMIN
CapabilityBoundingSet=CAP_SYS_ADMIN
RestrictNamespaces=
RestrictNamespaces=net
RestrictAddressFamilies=AF_NETLINK
User=root
Group=root
SystemCallFilter=capset
"""
NAMESPACES_AND_KEYRINGS = """[kernel]
network_namespaces = ["one", "two"]
keyrings = ["of-root"]
[log]
level = "debug"
"""


def sources(state: str, *namespaces: str) -> None:
    """Wait until the service's kernel sources, those of `namespaces`, are in `state`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        process = run("handshakectl", "status", "--json")
        status = json.loads(process.stdout) if process.stdout.startswith("{") else {}
        found = [source for worker in status.get("workers", ()) for source in worker.get("kernel") or ()]
        if found and all(source["state"] == state for source in found):
            assert {source["network_namespace"] for source in found} == set(namespaces), found
            return
        assert time.monotonic() < deadline, (process.stdout, journal())
        time.sleep(0.1)


def journal() -> str:
    """The log of the service."""
    return must("journalctl", "--unit=handshaked", "--output=cat")


def workers() -> set[int]:
    """Return the pids of the service's workers."""
    return {worker["pid"] for worker in json.loads(must("handshakectl", "status", "--json"))["workers"]}


def networks_of_workers() -> set[str]:
    """Return the network namespaces of the service's workers."""
    return {os.readlink(f"/proc/{pid}/ns/net") for pid in workers()}


def kill_workers() -> None:
    """Kill all workers, and wait until they are gone."""
    before = workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(before)


def kill_daemon() -> None:
    """Kill the parent process, and wait until it and its workers are gone."""
    main = int(must("systemctl", "show", "--property=MainPID", "--value", "handshaked.service"))
    before = {main, *workers()}
    os.kill(main, signal.SIGKILL)
    wait_until_gone(before)


def wait_until_gone(pids: set[int]) -> None:
    """Wait until no process has one of `pids`."""
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, journal()
        time.sleep(0.1)


def capabilities_of_workers() -> set[int]:
    """Return the sets of effective capabilities of the service's workers."""
    masks = set()
    for pid in workers():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        masks |= {int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")}
    return masks


def prepare() -> None:
    """Mount file systems with real file ownership, and install the service."""
    for path in (Path("/var/lib/handshaked"), CERTIFICATES):
        path.mkdir(parents=True)
        must("mount", "-t", "tmpfs", "tmpfs", str(path))
    must("systemctl", "start", "dbus.socket", "systemd-journald.service")
    must("handshakectl", "install-systemd")
    CONFIGURATION.parent.mkdir(exist_ok=True)


def mounts() -> None:
    """Mount with ``tls`` and ``mtls``, with keys that the service's user cannot read without its capability."""
    ca = Authority(CERTIFICATES)
    server, client = ca.issue("server.test"), ca.issue("client.test", client=True)
    CONFIGURATION.write_text(
        f'[client]\ntrust = "{ca.root}"\ncertificate = "{client.certificate}"\nprivate_key = "{client.key}"\n'
        f'[server]\ntrust = "{ca.root}"\n'
    )
    must("systemctl", "start", "handshaked.service")
    must(
        "handshakectl", "register", "nfs", f"--cert={server.certificate}", f"--key={server.key}", "--alpn=sunrpc",
        "--allow-kernel",
    )  # fmt: skip
    sources("serving", ".")
    assert capabilities_of_workers() == {1 << NET_ADMIN}, "the parent reads files for the workers"
    assert networks_of_workers().isdisjoint({os.readlink("/proc/self/ns/net")}), "the host's network is out of reach"
    serve_nfs()
    for security, ended in (("tls", kill_workers), ("mtls", kill_daemon)):
        with mounted(security=security) as directory:
            write_and_read(directory)
        ended()
        sources("serving", ".")
    must("systemctl", "stop", "handshaked.service")  # flushes its last outcomes
    wait_until_inactive("handshaked-netlink.socket", "the kernel would wait for the daemon")
    said = journal()
    for role in ("client", "server"):
        assert said.count(f"outcome=ok role={role} caller=kernel") == 2, said
    assert "outcome=failed" not in said, said


def namespaces_and_keyrings() -> None:
    """Check network namespaces and keyrings without the drop-in, and with it."""
    CONFIGURATION.write_text(NAMESPACES_AND_KEYRINGS)
    make_keyring("of-root")
    for name in ("one", "two"):
        must("ip", "netns", "add", name)
    must("systemctl", "start", "handshaked.service")
    refused = "Operation not permitted; CAP_SYS_ADMIN is missing"
    sources(f"no netlink: cannot enter a network namespace: {refused}", "one", "two")
    assert "keyrings linked: none" in journal()
    DROP_IN.parent.mkdir(parents=True)
    DROP_IN.write_text(SETTINGS)
    must("systemctl", "daemon-reload")
    must("systemctl", "restart", "handshaked.service")
    sources("serving", "one", "two")
    assert capabilities_of_workers() == {1 << NET_ADMIN | 1 << SYS_ADMIN}
    assert "keyrings linked: of-root" in journal()


prepare()
mounts()
namespaces_and_keyrings()
