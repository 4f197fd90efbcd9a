"""Clients whose address changes under them: connections follow by their connection IDs."""

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


@pytest.mark.parametrize("delivery", ["accept", "relay"])
def test_an_accepted_connection_follows_its_client(
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
            assert await echo(client, b"at home") == ("moving", b"at home")
            for place in (b"on the train", b"at work"):
                path.rebind()
                assert await echo(client, place) == ("moving", place)

    with smb_server(demux_daemon, demux, "moving", user=FIRST_USER):
        asyncio.run(scenario())
    assert demux.metrics()['flows_total{reason="moved"}'] == 2


def test_an_accepted_connection_follows_under_a_new_connection_id(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    register("moving", "moving.example.com", "smb", user=FIRST_USER)

    async def scenario() -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "smb") as client,
        ):
            await echo(client, b"at home")
            path.rebind()
            client.change_connection_id()
            assert await echo(client, b"elsewhere") == ("moving", b"elsewhere")

    with smb_server(demux_daemon, demux, "moving", user=FIRST_USER):
        asyncio.run(scenario())


def test_each_address_of_a_client_took_a_socket_until_the_connection_ended(
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


def test_a_forwarded_connection_follows_its_client(
    demux_daemon: RunningDaemon, demux: RunningDemux, register: Callable[..., None], authority: Authority
) -> None:
    async def scenario() -> None:
        async with (
            link(demux.port) as path,
            connected(Target(path.port, authority.root), "moving.example.com", "h3") as client,
        ):
            assert await _ask(client) == b"moving:hello"
            client.change_connection_id()  # at the old place: so the new one is known when the client moves
            assert await _ask(client) == b"moving:hello"
            for _ in range(2):
                path.rebind()
                assert await _ask(client) == b"moving:hello"

    with echo_server(demux_daemon) as port:
        register("moving", "moving.example.com", "h3", deliver=f"forward 127.0.0.1:{port}")
        asyncio.run(scenario())
    assert demux.metrics()['flows_total{reason="moved"}'] == 2


def test_a_datagram_of_no_connection_goes_nowhere(demux: RunningDemux) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", demux.port))
        sock.send(b"\x40" + bytes(1199))
        while 'dropped_total{reason="unknown"}' not in demux.metrics():
            continue
        with pytest.raises(BlockingIOError):
            sock.recv(2000, socket.MSG_DONTWAIT)


async def _ask(client: object) -> bytes:
    reader, writer = await client.create_stream()  # type: ignore[attr-defined] # a protocol of aioquic's
    writer.write(b"hello")
    writer.write_eof()
    answer: bytes = await asyncio.wait_for(reader.read(), 30)
    return answer
