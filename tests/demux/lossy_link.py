"""A link between clients and a server that loses, duplicates and reorders datagrams and can change addresses."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

_REORDER_SECONDS = 0.02


@dataclass(frozen=True)
class Impairment:
    """The probabilities that a datagram is lost, duplicated, or delayed beyond later ones."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0


class LossyLink:
    """Forward datagrams between clients of ``port`` on loopback and `server`, with one outgoing address per client."""

    def __init__(self, server: tuple[str, int], impairment: Impairment, seed: int) -> None:
        self.lost = 0
        self._server = server
        self._impairment = impairment
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._clients: dict[Any, socket.socket] = {}
        self._front = _loopback_socket()
        self._loop.add_reader(self._front, self._from_client)
        self.port: int = self._front.getsockname()[1]

    def rebind(self) -> None:
        """Give all clients new addresses, as a NAT does after losing its mappings."""
        for client in list(self._clients):
            self._forget(self._clients.pop(client))
            self._outside(client)

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self._clients.values(), self._front):
            self._forget(sock)

    def _from_client(self) -> None:
        datagram, client = self._front.recvfrom(65536)
        self._pass(self._clients.get(client) or self._outside(client), datagram, self._server)

    def _outside(self, client: Any) -> socket.socket:
        sock = self._clients[client] = _loopback_socket()
        self._loop.add_reader(sock, self._from_server, sock, client)
        return sock

    def _from_server(self, sock: socket.socket, client: Any) -> None:
        self._pass(self._front, sock.recv(65536), client)

    def _pass(self, sock: socket.socket, datagram: bytes, to: Any) -> None:
        impairment, chance = self._impairment, self._random.random
        if chance() < impairment.loss:
            self.lost += 1
            return
        for _ in range(2 if chance() < impairment.duplication else 1):
            if chance() < impairment.reordering:
                self._loop.call_later(_REORDER_SECONDS * chance(), _send, sock, datagram, to)
            else:
                _send(sock, datagram, to)

    def _forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()


def _send(sock: socket.socket, datagram: bytes, to: Any) -> None:
    with contextlib.suppress(OSError):  # buffer full or socket closed: the datagram is lost
        sock.sendto(datagram, to)


def _loopback_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def link(port: int, impairment: Impairment = Impairment(), seed: int = 1) -> AsyncIterator[LossyLink]:
    """Yield a link to `port` on loopback."""
    made = LossyLink(("127.0.0.1", port), impairment, seed)
    try:
        yield made
    finally:
        made.close()
