"""One daemon serves two network namespaces, and no third one."""

import sys

from tests.kernel.inside.scene import authority, daemon, logged, must, run, serving

SERVER = "ip link set lo up && mount -t nfsd nfsd /proc/fs/nfsd && rpc.nfsd --no-nfs-version 3 2"
CLIENT = """
import sys
from pathlib import Path
from tests.kernel.inside.rpc import context, handshake
handshake(context(Path(sys.argv[1]))).close()
"""


def inside(name: str, *command: str) -> tuple[str, ...]:
    """Return `command` to be run in the network namespace `name`."""
    # Not "ip netns exec": its mount namespace would end with the command, and with it the mount of nfsd.
    return ("nsenter", f"--net=/run/netns/{name}", *command)


ca = authority()
server = ca.issue("server.test")
shake_hands = (sys.executable, "-c", CLIENT, str(ca.root))
for name in ("one", "two", "three"):
    must("ip", "netns", "add", name)
    must(*inside(name, "sh", "-c", SERVER))

with daemon(options=("--netns=one", "--netns=two"), workers=2) as running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    for _ in range(2):
        for name in ("one", "two"):
            must(*inside(name, *shake_hands))
    process = run(*inside("three", *shake_hands))
    assert process.returncode != 0, "answered"
    logged(running, "outcome=ok", "role=server", count=4)
    sources = [source for worker in running.ask("status")["workers"] for source in worker["kernel"]]
    for name in ("one", "two"):
        assert sum(source["answered"] for source in sources if source["network_namespace"] == name) == 2, sources
    assert len(sources) == 4, sources
