"""Measure handshakes of nfsd by an agent (``handshaked``, ``tlshd``): benchmark.py AGENT SEQUENTIAL AT_ONCE ROUNDS.

Prints the wall time per handshake in milliseconds, for each requested pattern. CPU time is measured outside: this
kernel accounts it by ticks at 100 Hz, with which handshakes synchronize.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.kernel.inside.rpc import context, handshake
from tests.kernel.inside.scene import HERE, authority, daemon, serve_nfs, serving

agent, sequential, at_once, rounds = sys.argv[1], *map(int, sys.argv[2:])
ca = authority()
issued = ca.issue("server.test")
tls = context(ca.root)


@contextmanager
def measured(pattern: str, count: int) -> Iterator[None]:
    """Print the average time of the `count` handshakes in the block."""
    begin = time.monotonic()
    yield
    print(json.dumps({"pattern": pattern, "wall_ms": round((time.monotonic() - begin) / count * 1e3, 1)}))


serve_nfs(threads=24)
running = daemon()
tlshd: subprocess.Popen[bytes] | None = None
if agent == "handshaked":
    running.start()
    running.register("nfs", (issued.certificate, issued.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
else:
    configuration = HERE / "tlshd.conf"
    configuration.write_text(
        f"[authenticate.client]\nx509.truststore={ca.root}\n[authenticate.server]\nx509.truststore={ca.root}\n"
        f"x509.certificate={issued.certificate}\nx509.private_key={issued.key}\n"
    )
    tlshd = subprocess.Popen(["tlshd", "-s", "-c", str(configuration)], stderr=subprocess.DEVNULL)
    time.sleep(1)
for _ in range(5):
    handshake(tls).close()
if sequential:
    with measured("one after another", sequential):
        for _ in range(sequential):
            handshake(tls).close()
if rounds:
    with ThreadPoolExecutor(at_once) as pool, measured(f"{at_once} at once", at_once * rounds):
        for _ in range(rounds):
            for sock in list(pool.map(lambda _: handshake(tls), range(at_once))):
                sock.close()
if tlshd is not None:
    tlshd.kill()
running.stop()
