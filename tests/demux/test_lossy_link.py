"""Connections over a link that loses, duplicates and reorders datagrams."""

import asyncio
import os
from collections.abc import Callable

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.echo_server import echo_server
from tests.demux.clients import Target, connected, echo
from tests.demux.conftest import FIRST_USER
from tests.demux.lossy_link import Impairment, link

# Makes the ClientHello too long for one datagram, as post-quantum key shares do.
MANY_ALPNS = ["smb", *(f"protocol-number-{number}" for number in range(60))]


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["accept", "relay"])
@pytest.mark.parametrize("seed", range(3))
def test_connections_survive_an_impaired_link(
    delivery: str,
    seed: int,
    demux_daemon: RunningDaemon,
    demux: RunningDemux,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    register("smb", "smb.example.com", "smb", user=FIRST_USER, deliver=delivery)
    lost = 0

    async def one(port: int, number: int) -> None:
        async with connected(Target(port, authority.root), "smb.example.com", *MANY_ALPNS) as client:
            payload = os.urandom(20_000) + bytes([number])
            assert await echo(client, payload) == ("smb", payload)

    async def scenario() -> None:
        nonlocal lost
        async with link(demux.port, Impairment(loss=0.1, duplication=0.05, reordering=0.2), seed) as path:
            for number in range(8):
                await one(path.port, number)
            lost = path.lost

    with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
        asyncio.run(scenario())
    assert lost > 10


@pytest.mark.slow
def test_forwarded_connections_survive_an_impaired_link(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    async def scenario(port: int) -> None:
        async with link(port, Impairment(loss=0.1, duplication=0.05, reordering=0.2), 7) as path:
            for _ in range(8):
                async with connected(Target(path.port, authority.root), "web.example.com", *MANY_ALPNS) as client:
                    reader, writer = await client.create_stream()
                    writer.write(b"hello")
                    writer.write_eof()
                    assert await asyncio.wait_for(reader.read(), 30) == b"web:hello"

    with echo_server(demux_daemon) as backend:
        register("web", "web.example.com", "smb", deliver=f"forward 127.0.0.1:{backend}")
        asyncio.run(scenario(demux.port))
