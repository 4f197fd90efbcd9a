"""Perform real handshakes with a daemon's server side; the client is an engine in memory that verifies the chain."""

import time
from pathlib import Path

from handshaked.events import CryptoData, Event, HandshakeComplete, HandshakeFailed
from handshaked.model import Outcome, Role
from handshaked.shim import BlockingClient
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientParameters, PeerVerifier
from handshaked.tls.x509.readers import read_trust_store
from handshaked.tls.x509.verification import ServerChainVerifier
from handshaked.wire.messages import Done, Start

NAME = "www.example.com"
PARAMETERS = b"\x04\x01\x00"


def verifier(root: Path) -> PeerVerifier:
    """Return a verifier that trusts the certificates in the file `root`."""
    return ServerChainVerifier(read_trust_store(root.read_bytes(), "trust"))


def handshake(channel: BlockingClient, name: str, alpn: bytes, verify: PeerVerifier) -> tuple[Outcome, bytes]:
    """Return the server's outcome, and the leaf certificate that the client verified."""
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


def succeed(daemon: RunningDaemon, directory: Path, count: int) -> None:
    """Complete `count` handshakes with the registration web."""
    authority = Authority(directory)
    issued = authority.issue(NAME)
    daemon.register("web", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    verify = verifier(authority.root)
    with BlockingClient(daemon.handshake_socket) as channel:
        for _ in range(count):
            assert handshake(channel, NAME, b"h3", verify)[0].status == 0


def fail(daemon: RunningDaemon, count: int) -> None:
    """Make `count` requests that are refused."""
    with BlockingClient(daemon.handshake_socket) as channel:
        for _ in range(count):
            [done] = [one for one in channel.start(Start(role=Role.CLIENT)) if isinstance(one, Done)]
            assert done.outcome.status != 0
