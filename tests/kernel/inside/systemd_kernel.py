"""Inside, under systemd: what takes a drop-in. Without it the service goes without, and says why.

Other network namespaces take the privilege to enter them; keyrings of root's, as ``.nvme`` is one, take its user.
"""

import json
import time
from pathlib import Path

from tests.kernel.inside.scene import make_keyring, must, run

DROP_IN = Path("/run/systemd/system/handshaked.service.d/kernel.conf")
SETTINGS = """[Service]
AmbientCapabilities=CAP_SYS_ADMIN
CapabilityBoundingSet=CAP_SYS_ADMIN
RestrictNamespaces=
RestrictNamespaces=net
User=root
Group=root
"""
CONFIGURATION = """[kernel]
network_namespaces = ["one", "two"]
keyrings = ["of-root"]
[log]
level = "debug"
"""


def doors(state: str) -> None:
    """Wait until all the service's doors to the kernel are in `state`."""
    deadline = time.monotonic() + 30
    while True:
        process = run("handshakectl", "status", "--json")
        status = json.loads(process.stdout) if process.stdout.startswith("{") else {}
        found = [door for worker in status.get("workers", ()) for door in worker.get("kernel") or ()]
        if found and all(door["state"] == state for door in found):
            assert {door["network_namespace"] for door in found} == {"one", "two"}, found
            return
        assert time.monotonic() < deadline, (process.stdout, must("journalctl", "-u", "handshaked", "-n", "30"))
        time.sleep(0.1)


Path("/var/lib/handshaked").mkdir(parents=True)
must("mount", "-t", "tmpfs", "tmpfs", "/var/lib/handshaked")
must("systemctl", "start", "dbus.socket", "systemd-journald.service")
must("handshakectl", "install-systemd")
configuration = Path("/etc/handshaked/handshaked.toml")
configuration.parent.mkdir(exist_ok=True)
configuration.write_text(CONFIGURATION)
make_keyring("of-root")
for name in ("one", "two"):
    must("ip", "netns", "add", name)

must("systemctl", "start", "handshaked.service")
doors("no netlink: Operation not permitted")
assert "keyrings linked: none" in must("journalctl", "-u", "handshaked")
DROP_IN.parent.mkdir(parents=True)
DROP_IN.write_text(SETTINGS)
must("systemctl", "daemon-reload")
must("systemctl", "restart", "handshaked.service")
doors("serving")
assert "keyrings linked: of-root" in must("journalctl", "-u", "handshaked")
