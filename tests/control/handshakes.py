"""A real handshake with a daemon's server side: the client is an engine in memory, which verifies."""

import time
from pathlib import Path

from handshaked.events import CryptoData, Event, HandshakeComplete, HandshakeFailed
from handshaked.model import Outcome, Role
from handshaked.shim import BlockingClient
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, PeerVerifier
from handshaked.tls.x509.readers import read_trust_store
from handshaked.tls.x509.verification import ServerChainVerifier
from handshaked.wire.messages import Done, Start

PARAMETERS = b"\x04\x01\x00"


def verifier(root: Path) -> PeerVerifier:
    """Verifies servers by the certificates in the file `root`."""
    return ServerChainVerifier(read_trust_store(root.read_bytes(), "trust"))


def handshake(channel: BlockingClient, name: str, alpn: bytes, verify: PeerVerifier) -> tuple[Outcome, bytes]:
    """The server's outcome, and the leaf that the client has verified."""
    client = ClientHandshake(
        ClientParameters(alpns=(alpn,), server_name=name, transport_parameters=PARAMETERS, verifier=verify)
    )
    messages = channel.start(Start(role=Role.SERVER, transport_parameters=PARAMETERS))
    leaf = b""
    todo: list[Event] = list(client.start(time.time()))
    while True:
        for event in todo:
            if isinstance(event, CryptoData):
                messages += channel.receive(event.level, event.data)
            elif isinstance(event, HandshakeComplete):
                leaf = event.peer_certificates[0]
            assert not isinstance(event, HandshakeFailed), event
        todo = []
        for message in messages:
            if isinstance(message, Done):
                return message.outcome, leaf
            if isinstance(message, CryptoData):
                todo += client.receive(message.level, message.data, time.time())
        messages = []
