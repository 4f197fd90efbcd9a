"""Clients for tests: unmodified aioquic."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from cryptography import x509

from handshaked.testing.smb_server import pull_frames, push_frame


class Client(QuicConnectionProtocol):
    """Records the error code of the server's CONNECTION_CLOSE."""

    closed_with: int | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Record the error code."""
        if isinstance(event, ConnectionTerminated):
            self.closed_with = event.error_code
        super().quic_event_received(event)

    @property
    def certificate(self) -> x509.Certificate:
        """The server's certificate."""
        found = cast("Any", self)._quic.tls._peer_certificate  # noqa: SLF001 - aioquic has no public access to it
        assert isinstance(found, x509.Certificate)
        return found


@dataclass(frozen=True)
class Target:
    """The address to connect to, and the root certificate to verify with."""

    port: int
    root: Path
    host: str = "127.0.0.1"


def configuration(target: Target, server_name: str | None, *alpns: str, **options: Any) -> QuicConfiguration:
    """Return a client's configuration; without `server_name` it sends no SNI and verifies nothing."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=list(alpns),
        server_name=server_name or "127.0.0.1",
        cafile=str(target.root),
        verify_mode=ssl.CERT_REQUIRED if server_name else ssl.CERT_NONE,
        **options,
    )


@asynccontextmanager
async def connected(
    target: Target,
    server_name: str | None,
    *alpns: str,
    note: Callable[[Client], None] = lambda _: None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Yield a connected client; `note` gets it before it connects."""

    def create(*arguments: Any, **more: Any) -> Client:
        client = Client(*arguments, **more)
        note(client)
        return client

    async with connect(
        target.host,
        target.port,
        configuration=configuration(target, server_name, *alpns, **options),
        create_protocol=create,
    ) as client:
        yield cast("Client", client)


async def echo(client: QuicConnectionProtocol, payload: bytes) -> tuple[str, bytes]:
    """Send `payload` in an SMB frame. Return the registration that served it, and the echo."""
    reader, writer = await client.create_stream()
    writer.write(push_frame(payload))
    writer.write_eof()
    (answer,) = pull_frames(bytearray(await asyncio.wait_for(reader.read(), 30)))
    name, _, rest = answer.partition(b":")
    return name.decode(), rest


def served(target: Target, server_name: str | None, *alpns: str, **options: Any) -> tuple[str, x509.Certificate]:
    """Connect. Return the registration that served the client, and the server's certificate."""

    async def scenario() -> tuple[str, x509.Certificate]:
        async with connected(target, server_name, *alpns, **options) as client:
            name, payload = await echo(client, b"hello")
            assert payload == b"hello"
            return name, client.certificate

    return asyncio.run(scenario())


def refusal(target: Target, server_name: str | None, *alpns: str) -> int | None:
    """Connect. Return the error code of the refusal; None if the client is served."""
    clients: list[Client] = []

    async def scenario() -> int | None:
        try:
            async with connected(target, server_name, *alpns, note=clients.append):
                return None
        except ConnectionError:
            return clients[0].closed_with

    return asyncio.run(scenario())


def udp_sockets(pid: int) -> int:
    """Return the number of UDP sockets that the process has open."""
    inodes = {line.split()[9] for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.removeprefix("socket:[").removesuffix("]") in inodes for link in links)
