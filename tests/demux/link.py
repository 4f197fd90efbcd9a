"""A link between clients and a server that loses, repeats and reorders datagrams, and can give clients new addresses."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

_REORDER_SECONDS = 0.02


@dataclass(frozen=True)
class Weather:
    """How likely a datagram is lost, repeated, or overtaken by later ones."""

    loss: float = 0.0
    repetition: float = 0.0
    reordering: float = 0.0


class Link:
    """The clients' end is ``port`` of the loopback; each client comes to the server from an address of its own."""

    def __init__(self, server: tuple[str, int], weather: Weather, seed: int) -> None:
        self.port = 0
        self.lost = 0
        self._server = server
        self._weather = weather
        self._random = random.Random(seed)
        self._clients: dict[Any, asyncio.DatagramTransport] = {}
        self._front: asyncio.DatagramTransport | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Begin."""
        self._front, _ = await self._loop.create_datagram_endpoint(
            lambda: _End(lambda datagram, peer: self._from_client(datagram, peer)), local_addr=("127.0.0.1", 0)
        )
        self.port = self._front.get_extra_info("sockname")[1]

    async def rebind(self) -> None:
        """Give all clients new addresses, as a NAT does that has forgotten them."""
        for client, old in list(self._clients.items()):
            self._clients[client] = await self._outside(client)
            old.close()

    def close(self) -> None:
        """End."""
        for transport in (*self._clients.values(), self._front):
            if transport is not None:
                transport.close()

    def _from_client(self, datagram: bytes, client: Any) -> None:
        outside = self._clients.get(client)
        if outside is not None:
            self._pass(outside, datagram, self._server)
            return

        async def begin() -> None:
            if client not in self._clients:
                self._clients[client] = await self._outside(client)
            self._pass(self._clients[client], datagram, self._server)

        task = self._loop.create_task(begin())
        task.add_done_callback(lambda done: done.result())

    async def _outside(self, client: Any) -> asyncio.DatagramTransport:
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: _End(lambda datagram, _: self._pass(self._front, datagram, client)), local_addr=("127.0.0.1", 0)
        )
        return transport

    def _pass(self, transport: asyncio.DatagramTransport | None, datagram: bytes, to: Any) -> None:
        if transport is None or transport.is_closing():
            return
        weather, chance = self._weather, self._random.random
        if chance() < weather.loss:
            self.lost += 1
            return
        for _ in range(2 if chance() < weather.repetition else 1):
            if chance() < weather.reordering:
                self._loop.call_later(_REORDER_SECONDS * chance(), transport.sendto, datagram, to)
            else:
                transport.sendto(datagram, to)


class _End(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Any) -> None:
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._on_datagram(data, addr)


@asynccontextmanager
async def link(port: int, weather: Weather = Weather(), seed: int = 1) -> AsyncIterator[Link]:
    """A link to the loopback's `port`."""
    made = Link(("127.0.0.1", port), weather, seed)
    await made.open()
    try:
        yield made
    finally:
        made.close()
