"""Under systemd in the lab: the sandboxed service serves the kernel, and a drop-in extends its privileges.

Entering other network namespaces takes a capability, and root's keyrings, such as ``.nvme``, take its user. Without the
drop-in the service runs without them and logs why.
"""

import json
import time
from pathlib import Path

from handshaked.testing.authority import Authority
from tests.kernel.inside.scene import PATIENCE, make_keyring, mounted, must, run, serve_nfs, write_and_read

NET_ADMIN, SYS_ADMIN = 12, 21
CERTIFICATES = Path("/srv/certificates")
CONFIGURATION = Path("/etc/handshaked/handshaked.toml")
DROP_IN = Path("/run/systemd/system/handshaked.service.d/kernel.conf")
SETTINGS = """[Service]
AmbientCapabilities=CAP_SYS_ADMIN
CapabilityBoundingSet=CAP_SYS_ADMIN
RestrictNamespaces=
RestrictNamespaces=net
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
    """What the service has said."""
    return must("journalctl", "--unit=handshaked", "--output=cat")


def capabilities_of_workers() -> set[int]:
    """Return the sets of effective capabilities of the service's workers."""
    status = json.loads(must("handshakectl", "status", "--json"))
    masks = set()
    for worker in status["workers"]:
        lines = Path(f"/proc/{worker['pid']}/status").read_text().splitlines()
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
    serve_nfs()
    for security in ("tls", "mtls"):
        with mounted(security=security) as directory:
            write_and_read(directory)
    must("systemctl", "stop", "handshaked.service")  # flushes its last outcomes
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
