"""A TLS server and a TLS client over TCP with this project's engine, as peers of other implementations.

``python -m tests.interop.tcp [port]`` serves echo and HTTP with temporary certificates until it is stopped, for
protocol test suites.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handshaked.errors import HandshakedError
from handshaked.events import HandshakeComplete, HandshakeFailed
from handshaked.model import KeyType, Level
from handshaked.tls.client import ClientHandshake
from handshaked.tls.parameters import ClientHello, ClientParameters, Credential, EarlyData, ServerParameters, Tickets
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.server import ServerHandshake
from handshaked.tls.stream import ApplicationData, ClientStream, PeerClosed, ServerStream, StreamEvent
from handshaked.tls.tickets import RotatingTicketKeys
from tests.certificates import Issued, root, server

TIMEOUT = 20
"""Seconds to wait for a peer."""

_KEY_TYPES = {
    "p256": KeyType.ECDSA_P256,
    "p384": KeyType.ECDSA_P384,
    "p521": KeyType.ECDSA_P521,
    "ed25519": KeyType.ED25519,
    "ed448": KeyType.ED448,
    "rsa2048": KeyType.RSA,
}


def credential_of(leaf: Issued, *above: Issued) -> Credential:
    return Credential(tuple(each.der for each in (leaf, *above)), PrivateKeySigner(leaf.key), _KEY_TYPES[leaf.kind])


@dataclass
class Served:
    """The events and results of one connection."""

    events: list[StreamEvent] = field(default_factory=list)
    max_payload: int = 0

    @property
    def complete(self) -> HandshakeComplete:
        (event,) = (each for each in self.events if isinstance(each, HandshakeComplete))
        return event

    @property
    def failed(self) -> HandshakeFailed:
        (event,) = (each for each in self.events if isinstance(each, HandshakeFailed))
        return event

    def data(self) -> bytes:
        return b"".join(each.data for each in self.events if isinstance(each, ApplicationData))


def _read(connection: socket.socket, stream: ServerStream | ClientStream) -> bytes:
    """Read no more bytes than needed, as is required before a socket is handed on to kTLS."""
    return connection.recv(stream.needed())


Choose = Callable[[ClientHello], ServerParameters]


class TlsServer:
    """Serves each connection in a thread, with echo or one HTTP response; ``results`` queues their results."""

    def __init__(self, choose: Choose, port: int = 0) -> None:
        self._choose = choose
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.results: queue.Queue[Served] = queue.Queue()

    def __enter__(self) -> TlsServer:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def served(self) -> Served:
        return self.results.get(timeout=TIMEOUT)

    def _serve(self, connection: socket.socket) -> None:
        served = Served()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(TIMEOUT)
            self._run(connection, ServerStream(ServerHandshake(quic=False)), served)
        self.results.put(served)

    def _run(self, connection: socket.socket, stream: ServerStream, served: Served) -> None:
        while stream.needed() and (data := _read(connection, stream)):
            events = stream.receive(data, time.time())
            if stream.waits and stream.client_hello is not None:
                try:
                    events += stream.proceed(self._choose(stream.client_hello), time.time())
                except HandshakedError as error:
                    print(error, file=sys.stderr)
                    return
            served.events += events
            served.max_payload = stream.records.max_payload
            for event in events:
                self._answer(event, stream)
            connection.sendall(stream.pull_outgoing())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):  # so that no reset discards the alert
            pass

    def _answer(self, event: StreamEvent, stream: ServerStream) -> None:
        match event:
            case ApplicationData(Level.APPLICATION, data) if data.startswith(b"GET "):
                stream.send(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                stream.close()
            case ApplicationData(Level.APPLICATION, data):
                stream.send(data)
            case PeerClosed():
                stream.close()


def converse(port: int, parameters: ClientParameters, text: bytes = b"") -> Served:
    """Connect, complete the handshake, send `text`, wait for as many bytes, and close."""
    served, handshake = Served(), ClientHandshake(parameters, quic=False)
    stream = ClientStream(handshake, parameters.record_size_limit)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        served.events += stream.start(time.time())
        connection.sendall(stream.pull_outgoing())
        expected, sent = len(text), False
        while stream.needed() and (data := _read(connection, stream)):
            served.events += stream.receive(data, time.time())
            if not sent and any(isinstance(event, HandshakeComplete) for event in served.events):
                sent = True
                if text:
                    stream.send(text)
            if sent and len(served.data()) >= expected:
                expected = sys.maxsize
                stream.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the alert can still be read
                connection.sendall(stream.pull_outgoing())
    served.max_payload = stream.records.max_payload
    return served


@contextlib.contextmanager
def serving(parameters: ServerParameters) -> Iterator[TlsServer]:
    """Run a server with the same parameters for all clients."""
    with TlsServer(lambda _hello: parameters) as tls_server:
        yield tls_server


class Guard:
    """An in-memory replay guard."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def first_use(self, ticket: bytes, issued: float, expires: float, now: float) -> bool:
        fresh = ticket not in self._known
        self._known.add(ticket)
        return fresh


def main() -> None:
    """Serve with the first credential of RSA, ECDSA and EdDSA that the client's signature schemes allow."""
    authority = root()
    leaves = [server(authority, kind=kind, san="localhost 127.0.0.1") for kind in ("rsa2048", "p256", "ed25519")]
    credentials = [credential_of(leaf) for leaf in leaves]
    keys = RotatingTicketKeys([(time.time() - 1, bytes(32))])
    settings = ServerParameters(credentials[0], None, None, tickets=Tickets(keys), early_data=EarlyData(Guard()))

    def choose(hello: ClientHello) -> ServerParameters:
        for credential in credentials:
            if set(credential.key_type.schemes) & set(hello.signature_schemes):
                return dataclasses.replace(settings, credential=credential)
        return settings

    tls_server = TlsServer(choose, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    Path("/dev/stdout").write_text(f"127.0.0.1:{tls_server.port}\n")
    tls_server.serve()


if __name__ == "__main__":
    main()
