"""Integrate a userspace QUIC stack with asyncio: stack_asyncio.py SERVER_NAME ALPN ROOT.

Two endpoints in one process do a handshake with each other. A stack would put the CRYPTO data into packets, protected
with the secrets it was given; here the endpoints call each other. ROOT is a PEM file with the trust anchor for the
server's certificate.
"""

import asyncio
import ssl
import sys
from pathlib import Path

from handshaked.shim import (
    Close,
    CryptoData,
    Direction,
    Done,
    HandshakeClient,
    Level,
    Message,
    Outcome,
    PeerTransportParameters,
    PendingHandshake,
    Role,
    SessionTicket,
    Start,
    TrafficSecret,
)


class Endpoint:
    """One end of a QUIC connection. `transport_parameters` are its own, encoded (RFC 9000 section 18)."""

    def __init__(self, role: Role, transport_parameters: bytes) -> None:
        self.peer: Endpoint | None = None
        self.secrets: dict[tuple[Level, Direction], TrafficSecret] = {}
        self.peer_transport_parameters: bytes | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._role = role
        self._transport_parameters = transport_parameters
        self._handshake: PendingHandshake | None = None

    def start(self, client: HandshakeClient, start: Start) -> None:
        """Begin the handshake: a client at once, a server when its client's first packet arrives."""
        self._handshake = client.start(start, self._on_message)

    def receive_crypto(self, level: Level, data: bytes) -> None:
        """Take CRYPTO data from a packet of the peer; the stack has put it in order."""
        if self._handshake is not None:
            self._handshake.receive(level, data)

    def _on_message(self, message: Message) -> None:
        match message:
            case PeerTransportParameters(parameters, _alpn):
                self.peer_transport_parameters = parameters
                if self._role is Role.SERVER and self._handshake is not None:  # its Start contained none
                    self._handshake.proceed(self._transport_parameters)
            case TrafficSecret(level, direction):
                self.secrets[level, direction] = message  # derive packet protection keys (RFC 9001 section 5.1)
            case CryptoData(level, data):
                self._send_crypto(level, data)
            case Done(outcome):
                # If it failed, close the connection with outcome.quic_error, or INTERNAL_ERROR if that is None.
                self.outcome.set_result(outcome)
            case SessionTicket():
                pass  # only for a Start with ticket_seconds; keep it for the next connection
            case Close():
                pass  # only for a Start with ticket_seconds; close the connection with quic_error

    def _send_crypto(self, level: Level, data: bytes) -> None:
        if self.peer is not None:
            self.peer.receive_crypto(level, data)


async def handshake(server_name: str, alpn: str, trust_anchor: bytes) -> tuple[Outcome, Outcome]:
    """Do a handshake between a client and a server; return the outcomes of both."""
    client = HandshakeClient()
    try:
        client_end = Endpoint(Role.CLIENT, b"client's")
        server_end = Endpoint(Role.SERVER, b"server's")
        client_end.peer, server_end.peer = server_end, client_end
        server_end.start(client, Start(Role.SERVER))
        client_end.start(
            client,
            Start(
                Role.CLIENT,
                server_name=server_name,
                alpns=(alpn.encode(),),
                transport_parameters=b"client's",
                trust_anchors=(trust_anchor,),
            ),
        )
        return await client_end.outcome, await server_end.outcome
    finally:
        client.close()


def main() -> None:
    """Print how the handshake ended on both ends."""
    server_name, alpn, root = sys.argv[1:]
    trust_anchor = ssl.PEM_cert_to_DER_cert(Path(root).read_text())
    outcomes = asyncio.run(handshake(server_name, alpn, trust_anchor))
    for role, outcome in zip(("client", "server"), outcomes, strict=True):
        if outcome.status:
            sys.exit(f"{role}: failed: {outcome.reason}")
        print(f"{role}: ALPN {(outcome.alpn or b'').decode()}, registration {outcome.registration}")


if __name__ == "__main__":
    main()
