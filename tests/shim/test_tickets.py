"""Session tickets and early data between an aioquic client and our server, both with their TLS in the daemon."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioquic.asyncio.client as stock
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicket

from handshaked.registry.credentials import load_pem
from handshaked.registry.registration import Policy
from handshaked.registry.replay import ReplayRecord
from handshaked.registry.store import NewRegistration, Source, Store
from handshaked.shim import HandshakeClient
from handshaked.shim import aioquic as ours
from handshaked.shim.aioquic import serve
from handshaked.system.directories import DATABASE, REPLAY_RECORD
from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.tls.tickets import RotatingTicketKeys

NAMES = ("a.example.com", "b.example.com")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path, authority: Authority) -> RunningDaemon:
    """A daemon, not started, with two registrations that let tickets bring early data, and one without tickets."""
    daemon = RunningDaemon(tmp_path)
    store = Store(daemon.state_directory / DATABASE)
    for name, policy in [*((name, Policy(early_data=True)) for name in NAMES), ("none.example.com", Policy(tickets=0))]:
        issued = authority.issue(name)
        credential = load_pem(issued.certificate.read_bytes(), issued.key.read_bytes())
        store.register(NewRegistration(name, 0, (name,), (b"h3",), ((credential, Source()),), policy=policy))
    store.close()
    return daemon


class Visitor:
    """Connects again and again, with the last ticket; remembers each visit's (resumed, early data accepted)."""

    def __init__(self, daemon: RunningDaemon, authority: Authority, port: int) -> None:
        self.client = HandshakeClient(daemon.handshake_socket)
        self.tickets: list[SessionTicket] = []
        self._root = str(authority.root)
        self._port = port

    async def visit(
        self, ticket: SessionTicket | None = None, *, name: str = NAMES[0], by_daemon: bool = True
    ) -> tuple[bool, bool]:
        """Connect with `ticket`, exchange data, and wait for new tickets."""
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
            await protocol.ping()  # the server has sent its tickets before the answer to this
            if name in NAMES:
                self.tickets.append(await asyncio.wait_for(arrived.get(), 10))
            else:
                self.tickets.append(arrived.get_nowait())
            tls = protocol._quic.tls  # noqa: SLF001 - aioquic tells it in no other way after the event
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
    port = server._transport.get_extra_info("sockname")[1]  # noqa: SLF001 - aioquic tells it in no other way
    guest = Visitor(daemon, authority, port)
    try:
        yield guest
    finally:
        server.close()
        guest.client.close()
        client.close()


@pytest.mark.parametrize("by_daemon", [True, False], ids=["daemon", "stock"])
def test_a_ticket_resumes_and_brings_early_data(daemon: RunningDaemon, authority: Authority, by_daemon: bool) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            assert await guest.visit(by_daemon=by_daemon) == (False, False)
            assert await guest.visit(guest.tickets[-1], by_daemon=by_daemon) == (True, True)
            assert await guest.visit(guest.tickets[-1], by_daemon=by_daemon) == (True, True)

    with daemon:
        asyncio.run(scenario())


def test_early_data_is_taken_once_for_a_ticket(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            await guest.visit()
            first = guest.tickets[-1]
            visits = [await guest.visit(first) for _ in range(6)]
            assert visits == [(True, True)] + [(True, False)] * 5

    with daemon:
        asyncio.run(scenario())


def test_a_ticket_survives_a_restart_of_the_daemon_and_so_does_the_record_of_its_use(
    daemon: RunningDaemon, authority: Authority
) -> None:
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


def test_a_ticket_is_of_no_use_under_another_name(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            await guest.visit()
            ticket = guest.tickets[-1]
            ticket.server_name = NAMES[1]  # aioquic would not send it otherwise
            assert await guest.visit(ticket, name=NAMES[1]) == (False, False)
            assert await guest.visit(ticket, name=NAMES[1], by_daemon=False) == (False, False)

    with daemon:
        asyncio.run(scenario())


def test_a_server_that_does_not_consent_or_has_changed_takes_no_early_data(
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


def test_a_registration_without_tickets_issues_none(daemon: RunningDaemon, authority: Authority) -> None:
    async def scenario() -> None:
        async with visitor(daemon, authority) as guest:
            with pytest.raises(asyncio.QueueEmpty):
                await guest.visit(name="none.example.com")

    with daemon:
        asyncio.run(scenario())


def test_a_replay_record_that_does_not_answer_means_no_early_data(tmp_path: Path) -> None:
    path = tmp_path / REPLAY_RECORD
    record, other = ReplayRecord(path), ReplayRecord(path)
    assert record.first_use(b"a", expires=20.0, now=10.0)
    assert not other.first_use(b"a", expires=20.0, now=11.0)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert not other.first_use(b"b", expires=20.0, now=11.0)
    blocker.execute("ROLLBACK")
    assert other.first_use(b"b", expires=20.0, now=11.0)
    for each in (record, other, blocker):
        each.close()


def test_ticket_keys_rotate_ahead_of_their_time_and_expire(tmp_path: Path) -> None:
    day = 24 * 3600.0
    store = Store(tmp_path / DATABASE)
    assert store.rotate_ticket_keys(now=0.0)
    assert not store.rotate_ticket_keys(now=1000.0)
    assert store.rotate_ticket_keys(now=day - 1000.0)  # due in an hour: workers shall have it by then
    assert [begins for begins, _ in store.ticket_keys()] == [0.0, day]
    assert store.rotate_ticket_keys(now=9 * day)  # asleep for long
    assert [begins for begins, _ in store.ticket_keys()] == [day, 9 * day]
    assert len({secret for _, secret in store.ticket_keys()}) == 2
    store.close()


def test_a_clock_that_was_once_ahead_stopped_tickets_until_that_date(tmp_path: Path) -> None:
    day = 24 * 3600.0
    with contextlib.closing(Store(tmp_path / DATABASE)) as store:
        store.rotate_ticket_keys(now=day)
        store.rotate_ticket_keys(now=3650 * day)
        for now in (day, 2 * day, 3 * day, 30 * day):
            store.rotate_ticket_keys(now)
            key = RotatingTicketKeys(store.ticket_keys()).sealing(now)
            assert key is not None
            assert now - day <= key.created <= now


def test_a_clock_that_was_once_behind_costs_no_ticket(tmp_path: Path) -> None:
    day = 24 * 3600.0
    with contextlib.closing(Store(tmp_path / DATABASE)) as store:
        store.rotate_ticket_keys(now=20000 * day)
        before = RotatingTicketKeys(store.ticket_keys()).sealing(20000 * day)
        assert store.rotate_ticket_keys(now=0.0)
        assert RotatingTicketKeys(store.ticket_keys()).opening(before.identifier, 20000 * day) is not None
