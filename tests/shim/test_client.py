"""HandshakeClient: handshakes through a real daemon, and daemons that are absent, silent or malformed."""

import asyncio
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from handshaked.errors import Status
from handshaked.events import CryptoData, PeerTransportParameters, TrafficSecret
from handshaked.model import Level, Outcome
from handshaked.shim import BlockingClient, HandshakeClient, Message, PendingHandshake
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_done
from handshaked.wire.messages import Done
from tests.handshake_channel import PARAMETERS, client_start, eventually, server_start
from tests.patience import soon
from tests.shim.conftest import CLIENT_NAME


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


class Side:
    """One side of a handshake, and the messages it has received."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.handshake: PendingHandshake | None = None

    def begin(self, client: HandshakeClient, start: Any) -> "Side":
        self.handshake = client.start(start, self.messages.put_nowait, self.idle.set)
        return self

    async def until_done(self, peer: "Side | None" = None) -> Outcome:
        """Pass CRYPTO data on to `peer` until Done; return the outcome."""
        while True:
            message = await soon(self.messages.get())
            if isinstance(message, Done):
                return message.outcome
            if isinstance(message, CryptoData) and peer is not None and peer.handshake is not None:
                peer.handshake.receive(message.level, message.data)


def test_many_handshakes_share_a_connection(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        pairs = [(Side(), Side()) for _ in range(50)]
        for ours, theirs in pairs:
            theirs.begin(client, server_start())
            ours.begin(client, client_start(CLIENT_NAME, b"h3"))
        outcomes = await asyncio.gather(
            *(side.until_done(peer) for ours, theirs in pairs for side, peer in ((ours, theirs), (theirs, ours)))
        )
        assert {one.status for one in outcomes} == {Status.OK}
        client.close()

    run(work())


def test_on_idle_is_called_when_everything_is_answered(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        ours = Side().begin(client, client_start(CLIENT_NAME, b"h3"))
        await soon(ours.idle.wait())
        hello = ours.messages.get_nowait()
        assert isinstance(hello, CryptoData)
        theirs = Side().begin(client, server_start(transport_parameters=None))
        assert theirs.handshake is not None
        await soon(theirs.idle.wait())
        theirs.idle.clear()
        theirs.handshake.receive(Level.INITIAL, hello.data[:10])
        theirs.handshake.receive(Level.INITIAL, b"")
        await soon(theirs.idle.wait())
        assert theirs.messages.empty()
        theirs.idle.clear()
        theirs.handshake.receive(Level.INITIAL, hello.data[10:])
        await soon(theirs.idle.wait())
        assert theirs.messages.get_nowait() == PeerTransportParameters(PARAMETERS, b"h3")
        theirs.handshake.proceed(PARAMETERS)
        kinds = [type(await soon(theirs.messages.get())) for _ in range(5)]
        assert kinds == [CryptoData, TrafficSecret, TrafficSecret, CryptoData, TrafficSecret]
        client.close()

    run(work())


def test_start_raises_without_daemon_and_reconnects_later(daemon: RunningDaemon) -> None:
    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        first = Side().begin(client, server_start())
        await soon(first.idle.wait())
        workers = daemon.worker_pids()
        daemon.stop(signal.SIGKILL)
        assert (await first.until_done()).status in (Status.PEER_GONE, Status.SHUTTING_DOWN)
        await asyncio.to_thread(eventually, lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        with pytest.raises(OSError):  # noqa: PT011 - ECONNREFUSED or ENOENT
            client.start(server_start(), lambda _: None)
        daemon.start()
        await soon(Side().begin(client, server_start()).idle.wait())
        client.close()

    run(work())


TOO_LONG_START = client_start(CLIENT_NAME, b"h3", trust_anchors=(bytes(2500),) * 60)


def test_start_too_long_for_a_packet_raises_and_affects_no_other(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        other = Side().begin(client, server_start())
        with pytest.raises(OSError, match=r"Start message too long: .* with 60 trust anchors"):
            client.start(TOO_LONG_START, lambda _: None)
        await soon(other.idle.wait())
        assert other.messages.empty()
        client.close()

    run(work())
    with BlockingClient(path) as client, pytest.raises(OSError, match="with 60 trust anchors"):
        client.start(TOO_LONG_START)


def test_close_ends_open_handshakes(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        side = Side().begin(client, server_start())
        client.close()
        assert (await side.until_done()).status == Status.CANCELED
        again = Side().begin(client, server_start())  # reconnects
        await soon(again.idle.wait())
        client.close()

    run(work())


def test_cancelled_handshake_delivers_nothing_more(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        side = Side().begin(client, client_start(CLIENT_NAME, b"h3"))
        assert side.handshake is not None
        side.handshake.cancel()
        side.handshake.cancel()
        side.handshake.receive(Level.INITIAL, b"x")
        other = Side().begin(client, server_start())
        await soon(other.idle.wait())
        assert side.messages.empty()
        assert not side.idle.is_set()
        client.close()

    run(work())


def test_silent_daemon_ends_handshake_with_timeout(silent_daemon: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        side = Side().begin(client, server_start(timeout=0.01))
        done = await side.until_done()
        assert (done.status, done.reason) == (Status.TIMED_OUT, "the handshake daemon does not answer")
        client.close()

    run(work())


def test_unsent_data_is_bounded(silent_daemon: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        side = Side().begin(client, server_start())
        assert side.handshake is not None
        for _ in range(1000):
            side.handshake.receive(Level.INITIAL, bytes(30_000))
            await asyncio.sleep(0)
            if not side.messages.empty():
                break
        done = await side.until_done()
        assert (done.status, done.reason) == (Status.PEER_GONE, "the handshake daemon does not read its messages")
        client.close()

    run(work())


def test_silent_daemon_does_not_block_event_loop(silent_daemon: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        side = Side().begin(client, server_start(timeout=0.05))
        turns = 0
        waiting = asyncio.create_task(side.until_done())
        while not waiting.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100
        client.close()

    run(work())


@pytest.mark.parametrize(
    "packet", [b"nonsense", push_done(1, Outcome())[:-4] + b"\xff", bytes(100)], ids=["text", "cut", "zeros"]
)
def test_malformed_packet_ends_handshakes(silent_daemon: socket.socket, packet: bytes) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        side = Side().begin(client, server_start())
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(packet)
            assert (await side.until_done()).status == Status.FAILED
        client.close()

    run(work())


def test_exception_in_callback_affects_no_other_handshake(silent_daemon: socket.socket) -> None:
    async def work() -> None:
        def fail(_: Message) -> None:
            raise ZeroDivisionError

        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        client = HandshakeClient(Path(silent_daemon.getsockname()))
        client.start(server_start(), fail)
        good = Side().begin(client, server_start())
        client.start(server_start(), fail)
        gone = Side().begin(client, server_start())
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(push_done(1, Outcome(status=Status.BUSY)) + push_done(2, Outcome(status=Status.BUSY)))
            assert (await good.until_done()).status == Status.BUSY
        assert (await gone.until_done()).status == Status.PEER_GONE
        assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError] * 2
        client.close()

    run(work())
