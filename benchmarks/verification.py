"""CPU time of certificate chain verification."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

from benchmarks._measure import report
from handshaked.errors import PeerError
from handshaked.tls.x509.readers import read_revocation_lists, read_trust_store
from handshaked.tls.x509.revocation import RevocationLists
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import NOW, authority, client, issue, revocation_list, root, server

ANCHORS = 150
T = NOW.timestamp()


def measure(name: str, work: Callable[[], object], seconds: float = 0.5) -> None:
    """Report the CPU time of a call of `work`: the minimum of a few rounds."""
    work()
    rounds = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.process_time()
        for _ in range(20):
            work()
        rounds.append((time.process_time() - begin) / 20)
    report(name, min(rounds) * 1e6, "us")


def refused(verifier: ServerChainVerifier, chain: tuple[bytes, ...]) -> None:
    """Verify a chain that is refused."""
    with contextlib.suppress(PeerError):
        verifier.verify(chain, "a.example", T)


def main() -> None:
    """Run the benchmark."""
    for kind in ("p256", "rsa2048", "ed25519"):
        anchors = [root(kind=kind), *(root(f"other {n}", number=9) for n in range(ANCHORS - 1))]
        bundle = b"".join(anchor.pem for anchor in anchors)
        middle = issue("intermediate", anchors[0], authority(), kind=kind, number=101)
        chain = (server(middle, kind=kind).der, middle.der)
        of_client = (client(middle, kind=kind).der, middle.der)
        trust = read_trust_store(bundle, "anchors")
        lists = RevocationLists(
            one for each in (anchors[0], middle) for one in read_revocation_lists(revocation_list(each), "list")
        )
        of_servers, of_clients = ServerChainVerifier(trust), ClientChainVerifier(trust)
        checking = ServerChainVerifier(trust, lists)
        ring = [issue("root", None, authority(), kind=kind, number=7, serial=n + 1) for n in range(9)]
        hostile = (server(ring[0]).der, *(each.der for each in ring))
        measure(f"trust store of {ANCHORS} parsed", partial(read_trust_store, bundle, "anchors"))
        measure(f"hostile chain {kind} refused", partial(refused, of_servers, hostile))
        measure(f"server chain {kind}", partial(of_servers.verify, chain, "a.example", T))
        measure(f"client chain {kind}", partial(of_clients.verify, of_client, T))
        measure(f"server chain {kind} with revocation lists", partial(checking.verify, chain, "a.example", T))


if __name__ == "__main__":
    main()
