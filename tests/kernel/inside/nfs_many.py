"""No request and no descriptor is lost in 200 sequential handshakes and five times 20 concurrent ones."""

from concurrent.futures import ThreadPoolExecutor

from tests.kernel.inside.rpc import context, handshake
from tests.kernel.inside.scene import authority, daemon, descriptors, logged, serve_nfs, serving

ca = authority()
server = ca.issue("server.test")
serve_nfs(threads=24)
tls = context(ca.root)

with daemon(workers=2) as running:
    running.register("nfs", (server.certificate, server.key), alpns=["sunrpc"], allow_kernel=True)
    serving(running)
    handshake(tls).close()
    before = {pid: descriptors(pid) for pid in running.worker_pids()}
    for _ in range(200):
        handshake(tls).close()
    with ThreadPoolExecutor(20) as pool:
        for _ in range(5):
            open_at_once = list(pool.map(lambda _: handshake(tls), range(20)))
            for sock in open_at_once:
                sock.close()
    status = running.ask("status")
    sources = [source for worker in status["workers"] for source in worker["kernel"]]
    print(sources)
    assert sum(source["accepted"] for source in sources) == sum(source["answered"] for source in sources) == 301
    assert not any(source["in_flight"] or source["answers_refused"] for source in sources)
    assert before == {pid: descriptors(pid) for pid in running.worker_pids()}
    assert len(logged(running, "outcome=ok", count=301)) == 301
    assert "outcome=failed" not in running.log.read_text()
