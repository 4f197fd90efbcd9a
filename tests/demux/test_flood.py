"""Floods of datagrams from many addresses."""

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
from handshaked.testing.demux import RunningDemux, smb_server, smb_server_on_own_port
from tests.demux.clients import Target, connected, echo
from tests.demux.conftest import DEMUX_USER, FIRST_USER
from tests.patience import join
from tests.quic.initials import client_hello, crypto, initial


class Flood:
    """Sends incomplete ClientHellos and invalid datagrams from ever new addresses until it is stopped."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self._stop = threading.Event()
        hello = client_hello()
        self._datagrams = [initial(crypto(0, hello[:200]), dcid=os.urandom(8)) for _ in range(200)]
        self._datagrams += [b"\x40" + os.urandom(100), os.urandom(1200), initial(crypto(0, client_hello("no.example")))]
        self._port = port
        self._bursts = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

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
        """Send 103 datagrams from one address."""
        self._bursts += 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((f"127.{1 + self._bursts % 200}.0.1", 0))
            for datagram in self._datagrams[self._bursts % 100 : self._bursts % 100 + 103]:
                sock.sendto(datagram, ("127.0.0.1", self._port))
                self.sent += 1


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["accept", "relay", "forward", "forward over the shared socket"])
def test_established_flows_survive_a_flood(
    delivery: str,
    public_directory: Path,
    demux_daemon: RunningDaemon,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    options = ("--connected=0",) if "shared" in delivery else ()

    async def scenario(demux: RunningDemux) -> None:
        async with connected(Target(demux.port, authority.root), "smb.example.com", "smb") as client:
            for _ in range(2):
                assert (await echo(client, b"before"))[0] == "smb"
            flood = Flood(demux.port)
            # Over the shared socket a flow shares its queue with the flood, which must not fill it all the time.
            with nullcontext() if "shared" in delivery else flood:
                while flood.sent < 5000:
                    if "shared" in delivery:
                        flood.burst()
                    assert await echo(client, b"x" * 10_000) == ("smb", b"x" * 10_000)

    with RunningDemux(public_directory, demux_daemon, user=DEMUX_USER, options=options) as demux:
        way = delivery.partition(" ")[0]
        if way != "forward":
            register("smb", "smb.example.com", "smb", user=FIRST_USER, deliver=way)
            with smb_server(demux_daemon, demux, "smb", user=FIRST_USER):
                asyncio.run(scenario(demux))
        else:
            with smb_server_on_own_port(demux_daemon) as port:
                register("smb", "smb.example.com", "smb", deliver=f"forward 127.0.0.1:{port}")
                asyncio.run(scenario(demux))
        metrics = demux.metrics()
        assert metrics["pending_flows"] <= 16384
        assert metrics["pending_bytes"] <= 64 * 1024 * 1024
