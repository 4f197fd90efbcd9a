"""The upcall source for userspace: endpoints request handshakes on a SOCK_SEQPACKET socket.

One thread and one event loop, which callers share through a fair queue. ``endpoint`` handles each connection.
"""

import asyncio
import socket
from collections.abc import Iterator

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.account import Account, Accounts, Limits
from handshaked.callers.closing import Closer
from handshaked.callers.fair_queue import FairQueue
from handshaked.callers.log_limit import LogLimit
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.model import Caller
from handshaked.upcall.endpoint import Endpoint

_CONNECTION_SECONDS = 0.0002
"""Time charged to the user of a new connection, whatever the connection is used for."""


class UnixSource:
    """Accepts endpoints on `listener`; `service` opens their handshakes, `quic_sockets` those on QUIC sockets."""

    def __init__(
        self,
        listener: socket.socket,
        service: HandshakeService,
        limits: Limits,
        log_limit: LogLimit,
        quic_sockets: QuicSocketHandshakes | None = None,
    ) -> None:
        self._service = service
        self._limits = limits
        self._log_limit = log_limit
        self._quic_sockets = quic_sockets
        closer = Closer()
        self._accounts = Accounts(limits, closer.pool)
        self._queue = FairQueue()
        self._endpoints: set[Endpoint] = set()
        bounds = ConnectionBounds(
            limits.totals.connections, limits.connections, reserve=limits.totals.connections // 64
        )
        self._acceptor = Acceptor(listener, "the handshake socket", bounds, log_limit, closer, self._take)
        self._acceptor.start()

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that endpoints have not read yet."""
        return sum(endpoint.unsent_bytes for endpoint in self._endpoints)

    def stop_accepting(self) -> None:
        """Stop accepting connections; existing ones continue."""
        self._acceptor.stop()

    def close(self) -> None:
        """End all handshakes with DONE, status ESHUTDOWN, and close all connections."""
        self.stop_accepting()
        for endpoint in list(self._endpoints):
            endpoint.shut_down()

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        """Open an endpoint when the caller has its turn: accepting alone is cheap."""
        account = self._accounts.open(caller)
        account.charge(1, 0, _CONNECTION_SECONDS, asyncio.get_running_loop().time())
        self._queue.run(account, self._open(sock, caller, account), lambda _: None)

    def _open(self, sock: socket.socket, caller: Caller, account: Account) -> Iterator[int]:
        def released() -> None:
            self._endpoints.discard(endpoint)
            self._accounts.close(caller)
            self._acceptor.release(caller)

        endpoint = Endpoint(
            sock,
            caller,
            self._service,
            self._limits,
            account,
            self._queue,
            self._log_limit,
            released,
            self._quic_sockets,
        )
        self._endpoints.add(endpoint)
        yield 0
