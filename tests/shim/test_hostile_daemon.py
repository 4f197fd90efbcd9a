"""Client library against daemons that send what no daemon sends, and callbacks that use their own client."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration

from handshaked.errors import Status
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Outcome
from handshaked.shim import (
    BlockingClient,
    DemuxClient,
    Flow,
    HandshakeClient,
    HandshakeRefusedError,
    Message,
    QuicSocketOptions,
    Start,
    quic_server_handshake,
    quic_server_handshake_async,
)
from handshaked.shim.aioquic import connect
from handshaked.wire.demux import Listening, pull_from_application, push_flow, push_listening
from handshaked.wire.family import push_done, push_secret
from handshaked.wire.messages import Done
from handshaked.wire.netlink import push_ack
from tests.handshake_channel import client_start, server_start
from tests.patience import PATIENCE, soon
from tests.quic_socket_peers import in_thread


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(soon(work))


def secret(level: Level, direction: Direction) -> bytes:
    return push_secret(1, TrafficSecret(level, direction, CipherSuite.AES_128_GCM_SHA256, bytes(32)))


ONCE = secret(Level.HANDSHAKE, Direction.SEND)
UNEXPECTED = {
    "repeated": (server_start(), ONCE + ONCE, "HANDSHAKE, SEND"),
    "server sends early data": (server_start(), secret(Level.EARLY, Direction.SEND), "EARLY, SEND"),
    "client receives early data": (
        client_start("quic.example.com", b"h3"),
        secret(Level.EARLY, Direction.RECEIVE),
        "EARLY, RECEIVE",
    ),
}


@pytest.mark.parametrize(("start", "packet", "which"), UNEXPECTED.values(), ids=UNEXPECTED.keys())
def test_unexpected_secret_ends_the_handshake(
    silent_daemon: socket.socket, start: Start, packet: bytes, which: str
) -> None:
    """The caller would have replaced its keys, or installed them for the wrong direction."""
    expected = Done(Outcome(status=Status.FAILED, reason=f"unexpected secret from the daemon: {which}"))
    with BlockingClient(Path(silent_daemon.getsockname())) as client:
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(packet + push_ack(1))
            assert client.start(start)[-1] == expected

    async def shared() -> None:
        shared_client = HandshakeClient(Path(silent_daemon.getsockname()))
        messages: asyncio.Queue[Message] = asyncio.Queue()
        shared_client.start(start, messages.put_nowait)
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(packet + push_done(1, Outcome()))
            received = [await asyncio.wait_for(messages.get(), PATIENCE)]
            while not isinstance(received[-1], Done):
                received.append(await asyncio.wait_for(messages.get(), PATIENCE))
            assert received[-1] == expected
        shared_client.close()

    run(shared())


def test_secrets_of_each_handshake_are_expected_anew(silent_daemon: socket.socket) -> None:
    with BlockingClient(Path(silent_daemon.getsockname())) as client:
        accepted, _ = silent_daemon.accept()
        with accepted:
            for sequence in (1, 2):
                accepted.send(ONCE.replace(b"\1\0\0\0", bytes([sequence]) + bytes(3), 1) + push_ack(sequence))
                assert len(client.start(server_start())) == 1


def test_malformed_packet_does_not_end_what_a_callback_has_begun(silent_daemon: socket.socket) -> None:
    """The callback closed the client and began anew: the error of the old connection closed the new one."""

    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        messages: asyncio.Queue[Message] = asyncio.Queue()

        def begin_again(message: Message) -> None:
            if isinstance(message, TrafficSecret):
                client.close()
                client.start(server_start(), messages.put_nowait)

        client.start(server_start(), begin_again)
        first, _ = silent_daemon.accept()
        with first:
            first.send(ONCE + b"malformed")
            second, _ = await asyncio.to_thread(silent_daemon.accept)  # the loop handles the packet meanwhile
        with second:
            await asyncio.sleep(0)
            second.send(push_done(2, Outcome(status=Status.BUSY)))
            done = await asyncio.wait_for(messages.get(), PATIENCE)
        assert isinstance(done, Done)
        assert done.outcome.status == Status.BUSY
        client.close()

    run(work())


def test_exception_in_callback_does_not_hide_malformed_packet(silent_daemon: socket.socket) -> None:
    """The connection stayed open, and the other handshakes waited for their deadlines."""

    async def work() -> None:
        def fail(_: Message) -> None:
            raise ZeroDivisionError

        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        messages: asyncio.Queue[Message] = asyncio.Queue()
        client.start(server_start(), fail)
        client.start(server_start(), messages.put_nowait)
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(push_done(1, Outcome()) + b"malformed")
            done = await asyncio.wait_for(messages.get(), PATIENCE)
        assert isinstance(done, Done)
        assert done.outcome.reason.startswith("malformed packet from the daemon")
        assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]
        client.close()

    run(work())


def test_packets_that_keep_coming_do_not_stop_the_event_loop(silent_daemon: socket.socket) -> None:
    """All packets that were there were read without a break: neither the deadline nor other tasks had a turn."""
    packets = 50

    def answer() -> None:
        accepted, _ = silent_daemon.accept()
        with accepted:
            for _ in range(packets):
                accepted.send(push_ack(1))
            accepted.send(push_done(1, Outcome(status=0)))
            sent.set_result(None)
            accepted.recv(65536)
            accepted.recv(65536)

    async def work() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            options = QuicSocketOptions(path=Path(silent_daemon.getsockname()))
            handshake = asyncio.create_task(quic_server_handshake_async(ours, options=options))
            await asyncio.sleep(0)
            sent.result(PATIENCE)  # this blocks the loop, so that all packets are there before one is read
            turns = 0
            while not handshake.done():
                await asyncio.sleep(0)
                turns += 1
            assert (await asyncio.wait_for(handshake, PATIENCE)).status == Status.OK
            assert turns >= packets

    sent: Future[None] = Future()
    answering = in_thread(answer)
    run(work())
    answering.result(PATIENCE)


def blocking(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return quic_server_handshake(sock, options=options)


def awaited(sock: socket.socket, options: QuicSocketOptions) -> Outcome:
    return asyncio.run(quic_server_handshake_async(sock, options=options))


@pytest.mark.parametrize("form", [blocking, awaited])
@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_files_that_are_not_regular_are_refused(
    form: Callable[[socket.socket, QuicSocketOptions], Outcome], kind: str, tmp_path: Path
) -> None:
    """Opening a FIFO blocked until somebody wrote to it."""
    os.mkfifo(tmp_path / "fifo")
    path = {"fifo": tmp_path / "fifo", "directory": tmp_path, "device": Path("/dev/zero")}[kind]
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(HandshakeRefusedError, match=f"cannot open {path}") as raised:
        form(ours, QuicSocketOptions(psk=path))
    assert raised.value.errno == errno.EINVAL


def test_trust_anchors_in_a_fifo_are_refused(silent_daemon: socket.socket, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        configuration = QuicConfiguration(is_client=True, cafile=str(tmp_path / "fifo"))
        with pytest.raises(OSError, match="not a regular file"):
            async with connect("localhost", 1, configuration=configuration, client=client):
                pass

    run(work())


def test_demux_client_closed_in_a_callback_gets_no_more_flows(silent_daemon: socket.socket) -> None:
    async def work() -> None:
        flows: list[Flow] = []

        def close(flow: Flow, sock: socket.socket) -> None:
            sock.close()
            flows.append(flow)
            client.close()

        client = DemuxClient(("web",), close, path=Path(silent_daemon.getsockname()))
        starting = asyncio.create_task(client.start())
        await asyncio.sleep(0)
        accepted, _ = silent_daemon.accept()
        one, other = socket.socketpair()
        with accepted, one, other:
            flow = Flow("192.0.2.1:1", "192.0.2.2:2", datagrams=(b"x",), registration="web")
            socket.send_fds(accepted, [2 * push_flow(1, flow)], [one.fileno(), other.fileno()])
            with pytest.raises(ConnectionResetError):
                await starting
        assert (len(flows), client.held) == (1, 1)

    run(work())


def test_demux_client_reconnects_once_for_each_lost_connection(
    silent_daemon: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each registration that was not answered made another connection, and only the last one was read."""

    async def work() -> None:
        reconnections: list[float] = []
        call_later = asyncio.get_running_loop().call_later

        def count(delay: float, callback: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
            if getattr(callback, "__self__", None) is client:
                reconnections.append(delay)
            return call_later(delay, callback, *arguments)

        async def accepted(*, answers: bool) -> socket.socket:
            sock, _ = await asyncio.to_thread(silent_daemon.accept)
            sock.settimeout(PATIENCE)
            for _ in registrations if answers else ():
                ((sequence, _),) = pull_from_application(await asyncio.to_thread(sock.recv, 1000))
                sock.send(push_listening(sequence, Listening("web", b"rout")))
            return sock

        silent_daemon.settimeout(PATIENCE)
        registrations = ("web", "mail")
        client = DemuxClient(registrations, lambda _, sock: sock.close(), path=Path(silent_daemon.getsockname()))
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", count)
        starting = asyncio.create_task(client.start())
        for answers in (True, False, True):
            (await accepted(answers=answers)).close()
        await starting
        (await accepted(answers=True)).close()
        assert len(reconnections) == 3
        client.close()

    run(work())
