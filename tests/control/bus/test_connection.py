"""The connection to a bus that refuses, misbehaves, leaves or does not read."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from handshaked.callers.closing import Closer
from handshaked.control.bus import connection
from handshaked.control.bus.connection import BUS, BusError, Connection
from handshaked.control.bus.marshalling import MalformedError
from handshaked.control.bus.messages import Kind, Message, MessageStream, Received
from tests.patience import soon

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the client."""
    for answer in (b"OK 1234\r\n", b"AGREE_UNIX_FD\r\n"):
        await reader.readline()
        writer.write(answer)
    assert await reader.readline() == b"BEGIN\r\n"


async def next_call(reader: asyncio.StreamReader) -> Received:
    stream = MessageStream()
    while True:
        for message in stream.receive(await reader.read(1)):
            return message


async def say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the client, and answer its first call."""
    await authenticate(reader, writer)
    call = await next_call(reader)
    assert call.member == "Hello"
    writer.write(call.returning("s", ":1.1").marshal(1))


async def with_bus(directory: Path, serve: Serve, check: Callable[[str], Awaitable[None]]) -> None:
    """Run `check` with the address of a bus that treats its client as `serve` does."""
    path = directory / "bus"

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(accept, path)
    try:
        await soon(check(f"unix:path={path}"))
    finally:
        server.close()


async def opened(address: str, received: list[Received] | None = None) -> Connection:
    return await Connection.open(address, [].append if received is None else received.append, Closer(), files=True)


@pytest.mark.parametrize("address", ["tcp:host=127.0.0.1,port=1", "nonsense", "unix:dir=/tmp", ""])
def test_unsupported_address_is_named(address: str) -> None:
    with pytest.raises(BusError, match="unsupported bus address"):
        asyncio.run(opened(address))


def test_nobody_at_the_address_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"tcp:host=x;unix:path={tmp_path}/no%20body")
    with pytest.raises(FileNotFoundError):
        asyncio.run(opened("session"))


@pytest.mark.parametrize("answer", [b"REJECTED EXTERNAL\r\n", b"x" * 5000, b""])
def test_bus_that_refuses_authentication_is_an_error(tmp_path: Path, answer: bytes) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)

    async def check(address: str) -> None:
        with pytest.raises(BusError, match="refused"):
            await opened(address)

    asyncio.run(with_bus(tmp_path, refuse, check))


def test_bus_that_passes_no_files_is_an_error(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"OK 1234\r\n", b"ERROR\r\n"):
            await reader.readline()
            writer.write(answer)

    async def check(address: str) -> None:
        with pytest.raises(BusError, match="refused authentication"):
            await opened(address)

    asyncio.run(with_bus(tmp_path, refuse, check))


@pytest.mark.parametrize(("rest", "reason"), [(b"", "closed the connection"), (b"nonsense" * 2, "byte order")])
def test_end_of_the_connection_fails_its_calls(tmp_path: Path, rest: bytes, reason: str) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say_hello(reader, writer)
        await next_call(reader)
        writer.write(rest)

    async def check(address: str) -> None:
        bus = await opened(address)
        with pytest.raises(BusError, match=reason):
            await bus.call(BUS, "Never", "", results="")
        assert reason in await bus.wait_closed()
        bus.close("again")
        with pytest.raises(BusError, match=reason):
            await bus.call(BUS, "Never", "", results="")

    asyncio.run(with_bus(tmp_path, leave, check))


def test_replies_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say_hello(reader, writer)
        writer.write((await next_call(reader)).failing("org.example.Error", "why").marshal(2))
        writer.write((await next_call(reader)).returning("s", "text").marshal(3))
        writer.write(Message(Kind.METHOD_RETURN, reply_serial=99).marshal(4))
        writer.write((await next_call(reader)).returning("u", 5).marshal(5))
        await reader.read()

    async def check(address: str) -> None:
        bus = await opened(address)
        with pytest.raises(BusError, match=r"org\.example\.Error: why"):
            await bus.call(BUS, "One", "", results="u")
        with pytest.raises(BusError, match=r"reply of org\.freedesktop\.DBus to Two is unusable"):
            await bus.call(BUS, "Two", "", results="u")
        assert await bus.call(BUS, "Three", "", results="u") == [5]
        bus.close("done")

    asyncio.run(with_bus(tmp_path, answer, check))


def test_peer_that_does_not_reply_in_time_is_an_error(tmp_path: Path) -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say_hello(reader, writer)
        await reader.read()

    async def check(address: str) -> None:
        bus = await opened(address)
        with pytest.raises(BusError, match="did not reply to Silent in time"):
            await bus.call(BUS, "Silent", "", results="", seconds=0.01)
        bus.close("done")

    asyncio.run(with_bus(tmp_path, ignore, check))


def test_nothing_is_received_while_the_bus_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a flood of calls would fill the memory with replies."""
    monkeypatch.setattr(connection, "MAX_UNSENT", 1 << 20)
    signal = Message(Kind.SIGNAL, path="/o", interface="a.b", member="Signal")
    read = asyncio.Event()
    full = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say_hello(reader, writer)
        await soon(full.wait())
        writer.write(signal.marshal(2))
        await soon(read.wait())
        while await reader.read(1 << 20):
            pass

    async def check(address: str) -> None:
        received: list[Received] = []
        arrived = asyncio.Event()

        def receive(message: Received) -> None:
            received.append(message)
            arrived.set()

        bus = await Connection.open(address, receive, Closer(), files=True)
        for _ in range(4):
            bus.send(
                Message(Kind.SIGNAL, path="/o", interface="a.b", member="X", signature="s", body=["x" * (1 << 20)])
            )
        full.set()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(arrived.wait(), 0.2)
        assert not received
        read.set()
        await soon(arrived.wait())
        bus.close("done")

    asyncio.run(with_bus(tmp_path, flood, check))


def test_message_that_a_bus_would_disconnect_us_for_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(address: str) -> None:
        bus = await opened(address)
        monkeypatch.setattr(connection, "MAX_SENT", 100)
        with pytest.raises(MalformedError, match="exceeds the limit of 100"):
            bus.send(Message(Kind.SIGNAL, path="/o", interface="a.b", member="X", signature="s", body=["x" * 100]))
        bus.close("done")

    asyncio.run(with_bus(tmp_path, say_hello, check))
