"""aioquic clients and servers over real UDP, with their TLS in a daemon or not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aioquic.asyncio.client as stock_client
import aioquic.asyncio.server as stock_server
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived

from handshaked.shim import HandshakeClient
from handshaked.shim.aioquic import connect as our_connect
from handshaked.shim.aioquic import outcome_of
from handshaked.shim.aioquic import serve as our_serve
from handshaked.testing.authority import Issued


class Echo(QuicConnectionProtocol):
    """Echoes streams and datagram frames; ``ended`` is how the connection ended, ``addresses`` where clients were."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended: ConnectionTerminated | None = None
        self.addresses: set[tuple[Any, ...]] = set()

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        """Record the client's address."""
        self.addresses.add(addr)
        super().datagram_received(data, addr)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Echo data; record the end."""
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, DatagramFrameReceived):
            self._quic.send_datagram_frame(event.data)
            self.transmit()
        elif isinstance(event, ConnectionTerminated):
            self.ended = event


class Caller(QuicConnectionProtocol):
    """A client's connection; keeps datagram frames and how the connection ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ended: ConnectionTerminated | None = None
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Keep datagram frames and the end."""
        if isinstance(event, ConnectionTerminated):
            self.ended = event
        elif isinstance(event, DatagramFrameReceived):
            self.frames.put_nowait(event.data)
        super().quic_event_received(event)

    async def echoed(self, data: bytes) -> bytes:
        """Return the echo of `data` on a new stream."""
        reader, writer = await self.create_stream()
        writer.write(data)
        writer.write_eof()
        return await reader.read()


@dataclass
class Server:
    """A running server: its port and the protocols of its connections."""

    port: int
    connections: list[Echo]


@asynccontextmanager
async def serving(
    *, daemon: Path | None = None, certificate: Issued | None = None, alpns: list[str] | None = None, **options: Any
) -> AsyncIterator[Server]:
    """Run an echo server with its TLS in the daemon at the socket `daemon`, or a stock one with `certificate`."""
    settings = options.pop("settings", {})
    configuration = QuicConfiguration(is_client=False, alpn_protocols=alpns, **settings)
    connections: list[Echo] = []

    def create(*arguments: Any, **keywords: Any) -> Echo:
        connections.append(Echo(*arguments, **keywords))
        return connections[-1]

    client = None
    if daemon is not None:
        client = HandshakeClient(daemon)
        server = await our_serve(
            "127.0.0.1", 0, configuration=configuration, client=client, create_protocol=create, **options
        )
    else:
        assert certificate is not None
        configuration.load_cert_chain(certificate.certificate, certificate.key)
        server = await stock_server.serve(
            "127.0.0.1", 0, configuration=configuration, create_protocol=create, **options
        )
    try:
        yield Server(server._transport.get_extra_info("sockname")[1], connections)  # noqa: SLF001 - aioquic has no public way
    finally:
        server.close()
        if client is not None:
            client.close()


@asynccontextmanager
async def visiting(
    port: int,
    name: str | None,
    *alpns: str,
    root: Path | None = None,
    client: HandshakeClient | Path | None = None,
    notice: Callable[[Caller], None] = lambda _: None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Caller]:
    """Connect a client. With `root` it verifies the server; with `client` its TLS is in a daemon.

    `client` is a HandshakeClient, or the path of a daemon's socket.
    """
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpns),
        server_name=name or "127.0.0.1",  # aioquic sends no name for an address
        cafile=str(root) if root else None,
        verify_mode=ssl.CERT_REQUIRED if root else ssl.CERT_NONE,
    )
    configuration = replace(configuration, **(settings or {}))

    def create(*arguments: Any, **keywords: Any) -> Caller:
        caller = Caller(*arguments, **keywords)
        notice(caller)
        return caller

    connect: Any = stock_client.connect
    own = HandshakeClient(client) if isinstance(client, Path) else None
    if client is not None:
        connect, options = our_connect, {"client": own or client, **options}
    try:
        async with connect("127.0.0.1", port, configuration=configuration, create_protocol=create, **options) as caller:
            yield caller
    finally:
        if own is not None:
            own.close()


async def refusal(port: int, name: str | None, *alpns: str, **options: Any) -> ConnectionTerminated:
    """Return how a connection that is rejected ends."""
    callers: list[Caller] = []
    try:
        async with visiting(port, name, *alpns, notice=callers.append, **options):
            raise AssertionError("the connection was accepted")
    except ConnectionError:
        ended = callers[0].ended
        assert ended is not None
        return ended


def registration(server: Server) -> str | None:
    """Return the registration that served the last connection."""
    outcome = outcome_of(server.connections[-1])
    return None if outcome is None else outcome.registration
