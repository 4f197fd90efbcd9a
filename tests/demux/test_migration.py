"""Connection migration: connections of clients whose address changes are found by their connection IDs."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from handshaked.testing.authority import Authority
from handshaked.testing.daemon import RunningDaemon
from handshaked.testing.demux import RunningDemux, smb_server
from handshaked.testing.echo_server import echo_server
from tests.demux.clients import Target, connected, echo, udp_sockets
from tests.demux.conftest import FIRST_USER
from tests.demux.lossy_link import link
from tests.handshake_channel import eventually


@pytest.mark.parametrize("delivery", ["accept", "relay"])
def test_accepted_connection_survives_address_changes(
    delivery: str,
    demux_daemon: RunningDaemon,
    demux: RunningDemux,
    register: Callable[..., None],
    authority: Authority,
) -> None:
    register("moving", "moving.example.com", "smb", user=FIRST_USER, deliver=delivery)

    async def scenario() -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "smb") as client,
        ):
            assert await echo(client, b"before") == ("moving", b"before")
            for payload in (b"second address", b"third address"):
                path.rebind()
                assert await echo(client, payload) == ("moving", payload)

    with smb_server(demux_daemon, demux, "moving", user=FIRST_USER):
        asyncio.run(scenario())
    assert demux.metrics()['flows_total{reason="moved"}'] == 2


def test_accepted_connection_survives_a_new_connection_id(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    register("moving", "moving.example.com", "smb", user=FIRST_USER)

    async def scenario() -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "smb") as client,
        ):
            await echo(client, b"before")
            path.rebind()
            client.change_connection_id()
            assert await echo(client, b"after") == ("moving", b"after")

    with smb_server(demux_daemon, demux, "moving", user=FIRST_USER):
        asyncio.run(scenario())


def test_sockets_of_abandoned_addresses_are_closed(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    register("moving", "moving.example.com", "smb", user=FIRST_USER)

    async def scenario(pid: int) -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "smb") as client,
        ):
            for _ in range(8):
                assert await echo(client, b"here") == ("moving", b"here")
                path.rebind()
            assert await echo(client, b"there") == ("moving", b"there")
            assert 2 <= udp_sockets(pid) <= 4

    with smb_server(demux_daemon, demux, "moving", user=FIRST_USER) as server:
        asyncio.run(scenario(server.pid))


def test_forwarded_connection_survives_address_changes(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    async def scenario() -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "h3") as client,
        ):
            assert await _ask(client) == b"moving:hello"
            client.change_connection_id()  # at the old address, so that the new ID is learned before the client moves
            assert await _ask(client) == b"moving:hello"
            for _ in range(2):
                path.rebind()
                assert await _ask(client) == b"moving:hello"

    with echo_server(demux_daemon) as port:
        register("moving", "moving.example.com", "h3", deliver=f"forward 127.0.0.1:{port}")
        asyncio.run(scenario())
    assert demux.metrics()['flows_total{reason="moved"}'] == 2


def test_datagram_of_no_connection_is_dropped(demux: RunningDemux) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", demux.port))
        sock.send(b"\x40" + bytes(1199))
        assert eventually(lambda: 'dropped_total{reason="unknown"}' in demux.metrics())
        with pytest.raises(BlockingIOError):
            sock.recv(2000, socket.MSG_DONTWAIT)


async def _ask(client: object) -> bytes:
    reader, writer = await client.create_stream()  # type: ignore[attr-defined] # a protocol of aioquic
    writer.write(b"hello")
    writer.write_eof()
    answer: bytes = await asyncio.wait_for(reader.read(), 30)
    return answer
