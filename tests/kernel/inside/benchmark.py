"""nfsd's handshakes by an agent (``handshaked``, ``tlshd``): benchmark.py AGENT ROW AT_ONCE ROUNDS.

Prints the milliseconds of wall time that one took, for each pattern that was asked for. CPU time is measured from
outside: the clock that this kernel accounts by ticks a hundred times a second, and handshakes go in step with it.
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

agent, row, at_once, rounds = sys.argv[1], *map(int, sys.argv[2:])
ca = authority()
issued = ca.issue("server.test")
tls = context(ca.root)


@contextmanager
def measured(pattern: str, count: int) -> Iterator[None]:
    """Print what each of the `count` handshakes inside took."""
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
if row:
    with measured("one after another", row):
        for _ in range(row):
            handshake(tls).close()
if rounds:
    with ThreadPoolExecutor(at_once) as pool, measured(f"{at_once} at once", at_once * rounds):
        for _ in range(rounds):
            for sock in list(pool.map(lambda _: handshake(tls), range(at_once))):
                sock.close()
if tlshd is not None:
    tlshd.kill()
running.stop()
