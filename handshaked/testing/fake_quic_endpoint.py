"""A fake of a kernel with QUIC: sockets for a handshake agent on one side, real QUIC packets over UDP on the other.

The packets are made by aioquic and protected with the secrets that the agent installs. Everything runs in a thread with
its own event loop, as independent of the agent as a kernel.
"""

import asyncio
import queue
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived

from handshaked.datapath.emulated import MAX_MESSAGE, Kind, pull_message, pull_send, push_message
from handshaked.datapath.quic_options import Config, ConnectionClose
from handshaked.errors import Alert, Status
from handshaked.events import CryptoData, PeerTransportParameters, TrafficSecret
from handshaked.model import Level, Outcome
from handshaked.shim import HandshakeClient, OnMessage
from handshaked.shim.aioquic import connect, serve
from handshaked.testing.fake_quic_socket import FakeQuicSocket, SocketError
from handshaked.wire.messages import Done, Start

PATIENCE = 20.0
_CLOSED = re.compile(r"connection closed with (?:error (0x[0-9a-f]+)|(\w+)) (['\"])(.*)\3", re.DOTALL)
"""The adapter's reason for cancelling the handshake of a connection that the peer has closed."""
_Result = TypeVar("_Result")


@dataclass
class Connection:
    """A connection: the agent's end of its socket pair, and the state of its socket."""

    agent: socket.socket
    socket: FakeQuicSocket


class _Handshake:
    """One socket. It replaces the daemon's ``PendingHandshake`` in the adapter for aioquic, and is a ``Transport``."""

    def __init__(
        self, start: Start, on_message: OnMessage, on_idle: Callable[[], object], ticket: bytes, config: Config
    ) -> None:
        self._role = start.role
        self._on_message = on_message
        self._on_idle = on_idle
        self._own_parameters = start.transport_parameters or b""
        self._loop = asyncio.get_running_loop()
        self._done = False
        self._end, agent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setblocking(False)
        self._loop.add_reader(self._end, self._serve)
        fake_socket = FakeQuicSocket(
            start.role,
            self,
            alpns=b",".join(start.alpns),
            session_ticket=ticket,
            config=config,
            own_parameters=start.transport_parameters,
        )
        self.connection = Connection(agent, fake_socket)

    # Called by the adapter.

    over = False
    """The socket keeps all session tickets."""

    def receive(self, level: Level, data: bytes) -> None:
        """Handle received CRYPTO data."""
        if level is Level.APPLICATION:
            self.connection.socket.session_ticket = data
            return
        self.connection.socket.queue(level, data)
        self._say_readable()

    def proceed(self, transport_parameters: bytes) -> None:
        """Set the server's own transport parameters."""
        self._own_parameters = transport_parameters

    def cancel(self, reason: str = "") -> None:
        """Mark the connection as closed; `reason` has the error and the phrase of the peer's CONNECTION_CLOSE."""
        sock = self.connection.socket
        closed = _CLOSED.fullmatch(reason)
        if closed and sock.connection_close == ConnectionClose():  # the agent may have closed it before
            code = int(closed[1], 16) if closed[1] else Alert[closed[2].upper()].quic_error
            sock.connection_close = ConnectionClose(code, closed[4])
        sock.closed = True
        self._say_readable()

    # Called by the socket.

    def agree(self, peer_parameters: bytes, alpn: bytes) -> bytes:
        """See ``Transport``."""
        self._on_message(PeerTransportParameters(peer_parameters, alpn))
        return self._own_parameters

    def install(self, secret: TrafficSecret) -> None:
        """See ``Transport``."""
        self._on_message(secret)

    def transmit(self, level: Level, data: bytes) -> None:
        """See ``Transport``."""
        self._on_message(CryptoData(level, data))

    def go_on(self, *, established: bool) -> None:
        """See ``Transport``."""
        if established and not self._done:
            self._done = True
            self._on_message(Done(Outcome(status=Status.OK)))
        self._on_idle()

    # Called for the agent.

    def _say_readable(self) -> None:
        if self._end.fileno() >= 0:
            self._reply(push_message(Kind.READABLE, 0))

    def _reply(self, packet: bytes) -> None:
        with suppress(OSError):  # reading detects a closed socket, after all messages sent before
            self._end.send(packet, socket.MSG_NOSIGNAL)

    def _serve(self) -> None:
        try:
            packet = self._end.recv(MAX_MESSAGE)
        except ConnectionResetError:
            return  # closed with unread data: earlier messages are still to be read
        if not packet:
            self._gone()
            return
        try:
            self._reply(push_message(Kind.REPLY, 0, self._carry_out(packet)))
        except struct.error:
            self._reply(push_message(Kind.REPLY, Status.INVALID))
        except SocketError as error:
            self.connection.socket.note_refusal(error)
            self._reply(push_message(Kind.REPLY, error.status))

    def _carry_out(self, packet: bytes) -> bytes:
        fake_socket = self.connection.socket
        kind, number, body = pull_message(packet)
        if kind == Kind.GET:
            return fake_socket.get(number)
        if kind == Kind.SET:
            fake_socket.set(number, body)
        elif kind == Kind.SEND:
            level, message, more = pull_send(body)
            fake_socket.send(level, message, more=more)
        elif kind == Kind.RECEIVE:
            return fake_socket.receive()
        else:
            raise SocketError(Status.INVALID)
        return b""

    def close(self) -> None:
        """Close the socket from this side."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()

    def _gone(self) -> None:
        """Handle the close of the socket by its last owner; an incomplete handshake ends the connection."""
        self.close()
        if not self._done:
            self._done = True
            # The adapter closes a canceled connection with APPLICATION_ERROR, as the kernel does.
            self._on_message(Done(Outcome(Status.CANCELED, reason=self.connection.socket.connection_close.phrase)))


class _Echo(QuicConnectionProtocol):
    """The application: a server echoes streams. ``closed_with`` is the error code of a CONNECTION_CLOSE."""

    closed_with: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.echo: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = b""

    def begin(self, data: bytes) -> None:
        """Send `data` on a new stream; ``echo`` is the data that comes back."""
        self._quic.send_stream_data(self._quic.get_next_available_stream_id(), data, end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Echo stream data, and record the error code of the connection's end."""
        if isinstance(event, StreamDataReceived) and not self._quic.configuration.is_client:
            if not event.stream_id & 2:  # not unidirectional
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
                self.transmit()
        elif isinstance(event, StreamDataReceived):
            self._data += event.data
            if event.end_stream:
                self.echo.set_result(self._data)
        elif isinstance(event, ConnectionTerminated):
            self.closed_with = event.error_code
            if not self.echo.done():
                self.echo.set_result(b"")


class FakeQuicEndpoint:
    """Creates QUIC sockets; ``connections`` queues those that need a handshake. A context manager.

    `alpns`, `session_ticket` and `config` are socket options that the application has set.
    """

    def __init__(
        self, *, alpns: tuple[str, ...] = ("h3",), session_ticket: bytes = b"", config: Config | None = None
    ) -> None:
        self.connections: queue.Queue[Connection] = queue.Queue()
        self._alpns = alpns
        self._ticket = session_ticket
        self._config = config or Config()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[Any] = []
        self._handshakes: list[_Handshake] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run `work` in the endpoint's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def next_connection(self) -> Connection:
        """Wait for the next connection that needs a handshake."""
        return self.connections.get(timeout=PATIENCE)

    def start(self, start: Start, on_message: OnMessage, on_idle: Callable[[], object] = lambda: None) -> _Handshake:
        """Replace ``HandshakeClient.start`` for the adapter."""
        handshake = _Handshake(start, on_message, on_idle, self._ticket, self._config)
        self._handshakes.append(handshake)
        self.connections.put(handshake.connection)
        return handshake

    def close_sockets(self) -> None:
        """Close all sockets, as a kernel does when the connections are gone."""

        async def close() -> None:
            for handshake in self._handshakes:
                handshake.close()

        self.run(close())

    def listen(self) -> int:
        """Listen on a free port of loopback and return it."""

        async def begin() -> int:
            server = await serve(
                "127.0.0.1",
                0,
                configuration=QuicConfiguration(is_client=False, alpn_protocols=list(self._alpns)),
                client=self._as_client,
                create_protocol=_Echo,
            )
            self._servers.append(server)
            transport = server._transport  # noqa: SLF001 - aioquic has no public access to a server's address
            return int(transport.get_extra_info("sockname")[1]) if transport is not None else 0

        return self.run(begin())

    async def exchange(
        self, port: int, data: bytes, *, until: "Future[None] | None" = None
    ) -> tuple[bytes, int | None]:
        """Connect to `port` of loopback and send `data`. Return its echo, and the error code of a refusal.

        The connection stays open until `until` is done, for agents of either side that exchange session tickets.
        """
        clients: list[_Echo] = []

        def create(*arguments: Any, **options: Any) -> _Echo:
            clients.append(_Echo(*arguments, **options))
            return clients[0]

        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=list(self._alpns),
            server_name="localhost",
            verify_mode=ssl.CERT_NONE,
            original_version=self._config.version or None,
        )
        try:
            async with connect(
                "127.0.0.1",
                port,
                configuration=configuration,
                client=self._as_client,
                create_protocol=create,
                session_ticket_handler=lambda ticket: None,
            ) as client:
                clients[0].begin(data)
                async with asyncio.timeout(2 * PATIENCE):
                    echoed = await clients[0].echo
                    if not echoed:
                        return b"", clients[0].closed_with
                    await client.ping()  # everything sent with the echo, such as tickets, has arrived then
                    if until is not None:
                        await asyncio.wrap_future(until)
                return echoed, None
        except ConnectionError:
            return b"", clients[0].closed_with

    @property
    def _as_client(self) -> HandshakeClient:
        return cast("HandshakeClient", self)  # the adapter uses only start()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for handshake in self._handshakes:
            handshake.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the next iteration of the loop
