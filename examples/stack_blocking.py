"""Integrate a userspace QUIC stack without an event loop: stack_blocking.py SERVER_NAME ALPN ROOT.

A client and a server, each in a thread, do a handshake with each other. A stack would put the CRYPTO data into packets,
protected with the secrets it was given; here it goes through queues. ROOT is a PEM file with the trust anchor for the
server's certificate.
"""

import queue
import ssl
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from handshaked.shim import (
    BlockingClient,
    CryptoData,
    Direction,
    Done,
    Level,
    Message,
    Outcome,
    PeerTransportParameters,
    Role,
    Start,
    TrafficSecret,
)

SECONDS = 20.0  # to wait for the peer
Link = queue.Queue[CryptoData]


def handshake(start: Start, transport_parameters: bytes, incoming: Link, outgoing: Link) -> Outcome:
    """Do one end of a handshake over a pair of queues."""
    secrets: dict[tuple[Level, Direction], TrafficSecret] = {}
    with BlockingClient() as client:
        messages: deque[Message] = deque(client.start(start))
        while True:
            while messages:
                message = messages.popleft()
                match message:
                    case PeerTransportParameters() if start.role is Role.SERVER:
                        messages.extend(client.proceed(transport_parameters))  # its Start contained none
                    case TrafficSecret(level, direction):
                        secrets[level, direction] = message  # derive packet protection keys (RFC 9001 section 5.1)
                    case CryptoData():
                        outgoing.put(message)
                    case Done(outcome):
                        # If it failed, close the connection with outcome.quic_error.
                        return outcome
            received = incoming.get(timeout=SECONDS)
            messages.extend(client.receive(received.level, received.data))


def main() -> None:
    """Print how the handshake ended on both ends."""
    server_name, alpn, root = sys.argv[1:]
    client_start = Start(
        Role.CLIENT,
        server_name=server_name,
        alpns=(alpn.encode(),),
        transport_parameters=b"client's",
        trust_anchors=(ssl.PEM_cert_to_DER_cert(Path(root).read_text()),),
    )
    to_client, to_server = Link(), Link()
    with ThreadPoolExecutor() as threads:
        client = threads.submit(handshake, client_start, b"client's", to_client, to_server)
        server = threads.submit(handshake, Start(Role.SERVER), b"server's", to_server, to_client)
        for role, outcome in (("client", client.result()), ("server", server.result())):
            if outcome.status:
                sys.exit(f"{role}: failed: {outcome.reason}")
            print(f"{role}: ALPN {(outcome.alpn or b'').decode()}, registration {outcome.registration}")


if __name__ == "__main__":
    main()
