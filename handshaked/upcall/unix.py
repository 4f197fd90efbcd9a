"""The Unix door: userspace endpoints ask for handshakes on a SOCK_SEQPACKET socket.

One thread, one event loop, of which callers have their turns. What is done for each connection is in ``endpoint``.
"""

import socket

from handshaked.callers.acceptor import Acceptor, ConnectionBounds
from handshaked.callers.account import Accounts, Limits
from handshaked.callers.fair_queue import Turns
from handshaked.callers.log_limit import LogLimit
from handshaked.handshakes.quic_sockets import QuicSocketHandshakes
from handshaked.handshakes.service import HandshakeService
from handshaked.model import Caller
from handshaked.upcall.endpoint import Endpoint

_MAX_CONNECTIONS = 16_384
_RESERVE = 256


class UnixDoor:
    """Accepts endpoints on `listener` and opens drivers at `service` for them, or at `quic_sockets` if it is given."""

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
        self._accounts = Accounts(limits)
        self._turns = Turns()
        self._endpoints: set[Endpoint] = set()
        bounds = ConnectionBounds(_MAX_CONNECTIONS, limits.connections, _RESERVE)
        self._acceptor = Acceptor(listener, "the handshake socket", bounds, log_limit, self._take)
        self._acceptor.start()

    @property
    def unsent_bytes(self) -> int:
        """How much of what was answered endpoints have not read yet."""
        return sum(endpoint.unsent_bytes for endpoint in self._endpoints)

    def stop_accepting(self) -> None:
        """Take no new connections; those there are go on."""
        self._acceptor.stop()

    def close(self) -> None:
        """End all handshakes with a DONE that says so, and close all connections."""
        self.stop_accepting()
        for endpoint in list(self._endpoints):
            endpoint.shut_down()

    def _take(self, sock: socket.socket, caller: Caller) -> None:
        account = self._accounts.open(caller)

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
            self._turns,
            self._log_limit,
            released,
            self._quic_sockets,
        )
        self._endpoints.add(endpoint)
