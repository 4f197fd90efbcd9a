"""Daemons that accept fake QUIC sockets, and unmodified QUIC implementations as peers of these."""

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from aioquic.asyncio import connect, serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamDataReceived
from aioquic.tls import SessionTicket

from handshaked.datapath.quic_options import ConnectionClose
from handshaked.errors import Alert, QuicError
from handshaked.model import Role
from handshaked.testing.authority import Issued
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.fake_quic_endpoint import Connection, FakeQuicEndpoint
from tests.patience import PATIENCE, join, soon
from tests.run_name import public_temporary_directory

Result = TypeVar("Result")


@contextmanager
def socket_daemon() -> Iterator[RunningDaemon]:
    """Run a daemon that accepts fake QUIC sockets."""
    options = ("--no-kernel", "--emulated-quic-sockets")
    with public_temporary_directory() as directory, RunningDaemon(directory, workers=1, options=options) as daemon:
        yield daemon


def in_thread(work: Callable[[], Result]) -> "Future[Result]":
    """Run `work` in another thread. Return its future."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Peer(QuicConnectionProtocol):
    """Unmodified aioquic that records the result of the handshake."""

    completed: HandshakeCompleted | None = None
    connection_close: ConnectionClose | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.echo: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = b""

    def begin(self, data: bytes) -> None:
        """Send `data` on a new stream; ``echo`` is the data that comes back."""
        self._quic.send_stream_data(self._quic.get_next_available_stream_id(), data, end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.completed = event
        elif isinstance(event, ConnectionTerminated):
            self.connection_close = ConnectionClose(event.error_code, event.reason_phrase)
            if not self.echo.done():
                self.echo.set_result(b"")
        elif isinstance(event, StreamDataReceived) and not self._quic.configuration.is_client:
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, StreamDataReceived):
            self._data += event.data
            if event.end_stream:
                self.echo.set_result(self._data)


class Echoed:
    """The results of an unmodified aioquic client."""

    def __init__(self, data: bytes, peer: Peer, tickets: list[SessionTicket]) -> None:
        self.data = data
        self.close = peer.connection_close if not data else None
        self.resumed = peer.completed is not None and peer.completed.session_resumed
        self.early_data = peer.completed is not None and peer.completed.early_data_accepted
        self.tickets = tickets


def closed_in_handshake(alert: Alert) -> ConnectionClose:
    """Return what the peer of a QUIC socket receives that is closed after `alert`: only the phrase names it."""
    return ConnectionClose(QuicError.APPLICATION_ERROR, f"TLS alert {alert.label}")


def client_configuration(
    root: Path | None = None,
    name: str = "quic.example.com",
    alpn: str | None = "h3",
    identity: Issued | None = None,
    ticket: SessionTicket | None = None,
) -> QuicConfiguration:
    """Return a client's configuration: it verifies the server if `root` is given, and can show `identity`."""
    alpns = None if alpn is None else [alpn]
    configuration = QuicConfiguration(is_client=True, alpn_protocols=alpns, server_name=name, session_ticket=ticket)
    configuration.verify_mode = ssl.CERT_REQUIRED if root is not None else ssl.CERT_NONE
    if root is not None:
        configuration.load_verify_locations(str(root))
    if identity is not None:
        configuration.load_cert_chain(str(identity.certificate), str(identity.key))
    return configuration


async def ask(port: int, *, wants_ticket: bool = False, **options: Any) -> Echoed:
    """Connect with unmodified aioquic and send a word to be echoed; `options` are those of ``client_configuration``.

    With `wants_ticket` the client waits for a session ticket, which the agent may send after the echo.
    """
    peers: list[Peer] = []
    tickets: list[SessionTicket] = []
    ticketed = asyncio.Event()

    def keep(ticket: SessionTicket) -> None:
        tickets.append(ticket)
        ticketed.set()

    def create(*arguments: Any, **more: Any) -> Peer:
        peers.append(Peer(*arguments, **more))
        return peers[0]

    try:
        async with connect(
            "127.0.0.1",
            port,
            configuration=client_configuration(**options),
            create_protocol=create,
            session_ticket_handler=keep,
        ):
            peers[0].begin(b"hello")
            async with asyncio.timeout(PATIENCE):
                echoed = await peers[0].echo
                if echoed and wants_ticket:
                    await soon(ticketed.wait())
                return Echoed(echoed, peers[0], tickets)
    except ConnectionError:
        return Echoed(b"", peers[0], tickets)


class StockServer:
    """An unmodified aioquic server for `issued` on ``port``, in a thread; ``peers`` are its connections."""

    def __init__(
        self,
        issued: Issued,
        alpn: str = "h3",
        *,
        tickets: bool = False,
        known: Mapping[bytes, SessionTicket] | None = None,
    ) -> None:
        self.peers: list[Peer] = []
        self._configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn])
        self._configuration.load_cert_chain(str(issued.certificate), str(issued.key))
        self._tickets = dict(known or {}) if tickets or known else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._serve())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        join(self._thread)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _close(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # the transport closes its socket in the next iteration of the loop

    async def _serve(self) -> None:
        def create(*arguments: Any, **options: Any) -> Peer:
            self.peers.append(Peer(*arguments, **options))
            return self.peers[-1]

        tickets = self._tickets
        fetch = None if tickets is None else lambda label: tickets.pop(label, None)
        keep = None if tickets is None else lambda ticket: tickets.__setitem__(ticket.ticket, ticket)
        self._server = await serve(
            "127.0.0.1",
            0,
            configuration=self._configuration,
            create_protocol=create,
            session_ticket_fetcher=fetch,
            session_ticket_handler=keep,
        )
        transport = self._server._transport  # noqa: SLF001 - aioquic has no public access to a server's address
        self.port = transport.get_extra_info("sockname")[1]


def ask_with_gtlsclient(port: int, name: str, directory: Path, *options: str) -> str:
    """Connect with gtlsclient (GnuTLS and ngtcp2), with an /etc/hosts of its own. Return its output."""
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 {name}\n")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    client = ["gtlsclient", "--timeout=3s", *options, name, str(port), f"https://{name}/"]
    run = subprocess.run(
        [*namespace, "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh", *client],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return run.stdout + run.stderr


def left_alone(endpoint: FakeQuicEndpoint, role: Role, name: str = "quic.example.com") -> Connection:
    """Return a connection of `endpoint` whose peer is gone; a server's client has sent its ClientHello before."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        if role is Role.CLIENT:
            port = peer.getsockname()[1]
            in_thread(lambda: endpoint.run(endpoint.exchange(port, b"hello")))
        else:
            address = ("127.0.0.1", endpoint.listen())
            client = QuicConnection(
                configuration=QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=name)
            )
            client.connect(address, now=0.0)
            for datagram, _ in client.datagrams_to_send(now=0.0):
                peer.sendto(datagram, address)
        return endpoint.next_connection()


def waits(connection: Connection) -> bool:
    """Return whether the agent has sent its flight and waits for the peer."""
    calls = connection.socket.calls
    return calls[-1:] == ["receive"] and any(call.startswith("send ") for call in calls)


def descriptors_of(pid: int | str) -> list[str]:
    """Return what the descriptors of a process refer to, sorted."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return sorted(found)
