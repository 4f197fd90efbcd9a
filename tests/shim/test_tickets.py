"""Session tickets and early data of an aioquic server with its TLS in the daemon."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioquic.asyncio.client as stock
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicket

from handshaked.registry.credentials import load_pem
from handshaked.registry.settings import Policy
from handshaked.registry.sqlite_writer import SqliteRegistryWriter
from handshaked.registry.store import NewRegistration, Source
from handshaked.shim import HandshakeClient
from handshaked.shim import aioquic as ours
from handshaked.shim.aioquic import serve
from handshaked.system.directories import DATABASE, REPLAY_RECORD
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon

NAMES = ("a.example.com", "b.example.com")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path, authority: Authority) -> RunningDaemon:
    """A daemon, not started, with two registrations that allow early data and one without tickets."""
    daemon = RunningDaemon(tmp_path)
    store = SqliteRegistryWriter(daemon.state_directory / DATABASE)
    for name, policy in [*((name, Policy(early_data=True)) for name in NAMES), ("none.example.com", Policy(tickets=0))]:
        issued = authority.issue(name)
        credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        store.register(NewRegistration(name, os.geteuid(), (name,), (b"h3",), ((credential, Source()),), policy=policy))
    store.close()
    return daemon


class Visitor:
    """A client that connects repeatedly and keeps its session tickets."""

    def __init__(self, daemon: RunningDaemon, authority: Authority, port: int) -> None:
        self.client = HandshakeClient(daemon.handshake_socket)
        self.tickets: list[SessionTicket] = []
        self._root = str(authority.root)
        self._port = port

    async def visit(
        self, ticket: SessionTicket | None = None, *, name: str = NAMES[0], by_daemon: bool = True
    ) -> tuple[bool, bool]:
        """Connect with `ticket`, exchange data, wait for a new ticket; return (resumed, early data accepted)."""
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["h3"], server_name=name, cafile=self._root, session_ticket=ticket
        )
        arrived: asyncio.Queue[SessionTicket] = asyncio.Queue()
        connect: Any = ours.connect if by_daemon else stock.connect
        options: dict[str, Any] = {"client": self.client} if by_daemon else {}
        async with connect(
            "127.0.0.1",
            self._port,
            configuration=configuration,
            session_ticket_handler=arrived.put_nowait,
            wait_connected=False,
            **options,
        ) as protocol:
            protocol.transmit()
            reader, writer = await protocol.create_stream()
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"olleh"
            await protocol.ping()  # the server sent its tickets before the answer to this
            if name in NAMES:
                self.tickets.append(await asyncio.wait_for(arrived.get(), 10))
            else:
                self.tickets.append(arrived.get_nowait())
            tls = protocol._quic.tls  # noqa: SLF001 - aioquic has no public way after the event
            return tls.session_resumed, tls.early_data_accepted


@asynccontextmanager
async def visitor(
    daemon: RunningDaemon, authority: Authority, early_data: bytes | None = b"1"
) -> AsyncIterator[Visitor]:
    def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer() -> None:
            writer.write((await reader.read())[::-1])
            writer.write_eof()

        tasks.add(asyncio.create_task(answer()))

    tasks: set[asyncio.Task[None]] = set()
    client = HandshakeClient(daemon.handshake_socket)
    server = await serve(
        "127.0.0.1",
        0,
        configuration=QuicConfiguration(is_client=False),
        client=client,
        stream_handler=reverse,
        early_data=early_data,
    )
    port = server._transport.get_extra_info("sockname")[1]  # noqa: SLF001 - aioquic has no public way
    guest = Visitor(daemon, authority, port)
    try:
        yield guest
    finally:
        server.close()
        guest.client.close()
        client.close()


@pytest.mark.parametrize("by_daemon", [True, False], ids=["daemon", "stock"])
def test_ticket_resumes_with_early_data(daemon: RunningDaemon, authority: Authority, by_daemon: bool) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            assert await guest.visit(by_daemon=by_daemon) == (False, False)
            assert await guest.visit(guest.tickets[-1], by_daemon=by_daemon) == (True, True)
            assert await guest.visit(guest.tickets[-1], by_daemon=by_daemon) == (True, True)

    with daemon:
        asyncio.run(scenario())


def test_early_data_is_accepted_once_per_ticket(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            await guest.visit()
            first = guest.tickets[-1]
            visits = [await guest.visit(first) for _ in range(6)]
            assert visits == [(True, True)] + [(True, False)] * 5

    with daemon:
        asyncio.run(scenario())


def test_tickets_and_replay_record_survive_restart_of_daemon(daemon: RunningDaemon, authority: Authority) -> None:
    tickets: list[SessionTicket] = []

    async def first() -> None:
        async with visitor(daemon, authority) as guest:
            await guest.visit()
            await guest.visit(guest.tickets[0])
            tickets.extend(guest.tickets)

    async def second() -> None:
        async with visitor(daemon, authority) as guest:
            assert await guest.visit(tickets[0]) == (True, False)
            assert await guest.visit(tickets[1]) == (True, True)

    with daemon:
        asyncio.run(first())
    with daemon:
        asyncio.run(second())


def test_early_data_with_tickets_of_before_a_lost_record_is_rejected(
    daemon: RunningDaemon, authority: Authority
) -> None:
    """RFC 8446 section 8.2: the lost record may have contained them."""
    tickets: list[SessionTicket] = []

    async def visit(expected: tuple[bool, bool]) -> None:
        async with visitor(daemon, authority) as guest:
            assert await guest.visit(tickets[-1] if tickets else None) == expected
            tickets.extend(guest.tickets)

    with daemon:
        asyncio.run(visit((False, False)))
    for file in daemon.state_directory.glob(f"{REPLAY_RECORD}*"):
        file.unlink()
    with daemon:
        asyncio.run(visit((True, False)))
        asyncio.run(visit((True, True)))


def test_ticket_is_not_accepted_for_another_name(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            await guest.visit()
            ticket = guest.tickets[-1]
            ticket.server_name = NAMES[1]  # otherwise aioquic would not send it
            assert await guest.visit(ticket, name=NAMES[1]) == (False, False)
            assert await guest.visit(ticket, name=NAMES[1], by_daemon=False) == (False, False)

    with daemon:
        asyncio.run(scenario())


def test_server_without_consent_or_with_changed_limits_rejects_early_data(
    daemon: RunningDaemon, authority: Authority
) -> None:
    tickets: list[SessionTicket] = []

    async def meet(early_data: bytes | None, expected: tuple[bool, bool]) -> None:
        async with visitor(daemon, authority, early_data) as guest:
            assert await guest.visit(tickets[-1] if tickets else None) == expected
            tickets.extend(guest.tickets)

    with daemon:
        asyncio.run(meet(b"1", (False, False)))
        asyncio.run(meet(b"1", (True, True)))
        asyncio.run(meet(b"2", (True, False)))
        asyncio.run(meet(None, (True, False)))


def test_registration_without_tickets_issues_none(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            with pytest.raises(asyncio.QueueEmpty):
                await guest.visit(name="none.example.com")

    with daemon:
        asyncio.run(scenario())
