"""Links that lose, repeat and reorder, and crowds that mean harm."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server, smb_server_at_a_port
from handshaked.testing.echo_server import echo_server
from tests.demux.clients import Target, connected, echo
from tests.demux.conftest import DEMUX_USER, FIRST_USER
from tests.demux.link import Weather, link
from tests.patience import join
from tests.quic.initials import client_hello, crypto, initial

# A name list that makes the ClientHello too long for one datagram, as post-quantum key shares do.
MANY_ALPNS = ["smb", *(f"protocol-number-{number}" for number in range(60))]


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["accept", "relay"])
@pytest.mark.parametrize("seed", range(3))
def test_connections_come_through_bad_weather(
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
        async with link(demux.port, Weather(loss=0.1, repetition=0.05, reordering=0.2), seed) as path:
            for number in range(8):
                await one(path.port, number)
            lost = path.lost

    with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
        asyncio.run(scenario())
    assert lost > 10


@pytest.mark.slow
def test_forwarded_connections_come_through_bad_weather(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    async def scenario(port: int) -> None:
        async with link(port, Weather(loss=0.1, repetition=0.05, reordering=0.2), 7) as path:
            for _ in range(8):
                async with connected(Target(path.port, authority.root), "web.example.com", *MANY_ALPNS) as client:
                    reader, writer = await client.create_stream()
                    writer.write(b"hello")
                    writer.write_eof()
                    assert await asyncio.wait_for(reader.read(), 30) == b"web:hello"

    with echo_server(demux_daemon) as backend:
        register("web", "web.example.com", "smb", deliver=f"forward 127.0.0.1:{backend}")
        asyncio.run(scenario(demux.port))


class Flood:
    """Sends half a ClientHello from ever new addresses, and other things nobody wants, until it is stopped."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._stop = threading.Event()
        hello = client_hello()
        self._datagrams = [initial(crypto(0, hello[:200]), dcid=os.urandom(8)) for _ in range(200)]
        self._datagrams += [b"\x40" + os.urandom(100), os.urandom(1200), initial(crypto(0, client_hello("no.example")))]
        self._port = port
        self._bursts = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        join(self._thread)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.burst()

    def burst(self) -> None:
        """Send about a hundred datagrams from one address."""
        self._bursts += 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((f"127.{1 + self._bursts % 200}.0.1", 0))
            for datagram in self._datagrams[self._bursts % 100 : self._bursts % 100 + 103]:
                sock.sendto(datagram, ("127.0.0.1", self._port))
                self.sent += 1


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["accept", "relay", "forward", "forward in the crowd"])
def test_a_flood_leaves_established_flows_alone(
    delivery: str,
    public_directory: Path,
    demux_daemon: RunningDaemon,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    options = ("--connected=0",) if "crowd" in delivery else ()

    async def scenario(demux: RunningDemux) -> None:
        async with connected(Target(demux.port, authority.root), "smb.example.com", "smb") as client:
            for _ in range(2):
                assert (await echo(client, b"before"))[0] == "smb"
            flood = Flood(demux.port)
            # In the crowd a flow shares the port's queue with the flood, which must not fill it all the time.
            with nullcontext() if "crowd" in delivery else flood:
                while flood.sent < 5000:
                    if "crowd" in delivery:
                        flood.burst()
                    assert await echo(client, b"x" * 10_000) == ("smb", b"x" * 10_000)

    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, options=options) as demux:
        way = delivery.partition(" ")[0]
        if way != "forward":
            register("smb", "smb.example.com", "smb", user=FIRST_USER, deliver=way)
            with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
                asyncio.run(scenario(demux))
        else:
            with smb_server_at_a_port(demux_daemon) as port:
                register("smb", "smb.example.com", "smb", deliver=f"forward 127.0.0.1:{port}")
                asyncio.run(scenario(demux))
        metrics = demux.metrics()
        assert metrics["pending_flows"] <= 16384
        assert metrics["pending_bytes"] <= 64 * 1024 * 1024
