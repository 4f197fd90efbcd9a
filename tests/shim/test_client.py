"""The clients of the Unix door: handshakes through a real daemon, and daemons that go away or say nothing."""

import asyncio
import signal
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from handshaked.errors import Alert, Status
from handshaked.events import CryptoData, PeerTransportParameters, TrafficSecret
from handshaked.model import Level, Outcome
from handshaked.shim import BlockingClient, HandshakeClient, Message, PendingHandshake
from handshaked.testing.daemon import RunningDaemon
from handshaked.wire.family import push_done
from handshaked.wire.lookup import push_lookup_answer
from handshaked.wire.messages import Done, Lookup, LookupAnswer
from handshaked.wire.netlink import push_ack
from tests.conftest import Issue
from tests.doors import PARAMETERS, client_start, eventually, server_start
from tests.patience import soon
from tests.quic.datagrams import datagrams

NAME = "client.example.com"


@pytest.fixture(scope="module")
def path(shared_daemon: RunningDaemon, issue: Issue) -> Path:
    issued = issue(NAME)
    shared_daemon.register("client", (issued.certificate, issued.key), alpns=["h3"], server_names=[NAME])
    return shared_daemon.handshake_socket


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[socket.socket]:
    """A listener at ``tmp_path / mute`` that says what the test makes it say, and else nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "mute"))
        listener.listen()
        listener.settimeout(10)
        yield listener


def crypto(messages: list[Message]) -> list[CryptoData]:
    return [message for message in messages if isinstance(message, CryptoData)]


def outcome(messages: list[Message]) -> Outcome:
    assert isinstance(messages[-1], Done)
    return messages[-1].outcome


# The blocking client.


def test_two_blocking_clients_shake_hands(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start(NAME, b"h3")))
        assert theirs.start(server_start(transport_parameters=None)) == []
        assert theirs.receive(hello.level, hello.data) == [PeerTransportParameters(PARAMETERS, b"h3")]
        flight = crypto(theirs.proceed(PARAMETERS))
        answer: list[Message] = []
        for data in flight:
            answer += ours.receive(data.level, data.data)
        assert outcome(answer).status == Status.OK
        (finished,) = crypto(answer)
        assert outcome([m for m in theirs.receive(finished.level, finished.data) if isinstance(m, Done)]).status == 0
        # The connection serves for another one.
        assert len(crypto(ours.start(client_start(NAME, b"h3")))) == 1


def test_a_blocking_client_gets_its_message_byte_by_byte_through(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start(NAME, b"h3")))
        theirs.start(server_start())
        for byte in hello.data[:-1]:
            assert theirs.receive(Level.INITIAL, bytes([byte])) == []
        assert theirs.receive(Level.INITIAL, b"") == []
        assert len(crypto(theirs.receive(Level.INITIAL, hello.data[-1:]))) == 2


def test_a_blocking_client_is_refused_with_the_alert(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start("unknown.example.com", b"h3")))
        theirs.start(server_start(registration="client"))
        assert outcome(theirs.receive(hello.level, hello.data)).alert is Alert.UNRECOGNIZED_NAME


def test_a_blocking_client_looks_up(path: Path) -> None:
    with BlockingClient(path) as client:
        (hello,) = crypto(client.start(client_start(NAME, b"h3")))
        for question in (Lookup(client_hello=hello.data), Lookup(datagrams=tuple(datagrams(hello.data)))):
            assert client.look_up(question) == LookupAnswer(0, "client", b"h3", NAME)
        assert client.look_up(Lookup()).status == Status.INVALID


def test_crypto_data_of_any_size_goes_through(path: Path) -> None:
    with BlockingClient(path) as client:
        client.start(server_start())
        assert outcome(client.receive(Level.INITIAL, b"\1\0\xff\xff" + bytes(300_000))).status == Status.REFUSED


def test_a_blocking_client_does_not_wait_forever(mute: socket.socket) -> None:
    with BlockingClient(Path(mute.getsockname())) as client, pytest.raises(TimeoutError, match="does not answer"):
        client.start(server_start(timeout=0.01))


def test_a_blocking_client_does_not_wait_forever_to_send(mute: socket.socket) -> None:
    def send_on() -> None:
        while True:
            client.receive(Level.INITIAL, bytes(30_000))

    with BlockingClient(Path(mute.getsockname())) as client:
        accepted, _ = mute.accept()
        with accepted:
            accepted.send(push_ack(1))
            client.start(server_start(timeout=0.01))
            for _ in range(100):
                accepted.send(push_ack(1))
            with pytest.raises(TimeoutError, match="does not answer"):
                send_on()


def test_a_blocking_client_tells_of_a_daemon_that_went_away(mute: socket.socket) -> None:
    with BlockingClient(Path(mute.getsockname())) as client:
        mute.accept()[0].close()
        with pytest.raises(ConnectionError):
            client.start(server_start())


def test_without_a_daemon_a_blocking_client_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BlockingClient(tmp_path / "nothing")


def test_late_answers_to_another_handshake_are_passed_over(mute: socket.socket) -> None:
    with BlockingClient(Path(mute.getsockname())) as client:
        accepted, _ = mute.accept()
        with accepted:
            accepted.send(
                push_done(99, Outcome()) + push_lookup_answer(99, LookupAnswer(5)) + push_ack(99) + push_ack(1)
            )
            assert client.start(server_start()) == []


# The client for asyncio.


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


class Side:
    """A handshake and what it is told."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.handshake: PendingHandshake | None = None

    def begin(self, client: HandshakeClient, start: Any) -> "Side":
        self.handshake = client.start(start, self.messages.put_nowait, self.idle.set)
        return self

    async def until_done(self, peer: "Side | None" = None) -> Outcome:
        """Pass CRYPTO data on to `peer` until the end."""
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
            ours.begin(client, client_start(NAME, b"h3"))
        outcomes = await asyncio.gather(
            *(side.until_done(peer) for ours, theirs in pairs for side, peer in ((ours, theirs), (theirs, ours)))
        )
        assert {one.status for one in outcomes} == {Status.OK}
        client.close()

    run(work())


def test_idle_is_told_when_everything_is_answered(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        ours = Side().begin(client, client_start(NAME, b"h3"))
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


def test_without_a_daemon_a_start_raises_and_later_works(daemon: RunningDaemon) -> None:
    async def work() -> None:
        client = HandshakeClient(daemon.handshake_socket)
        first = Side().begin(client, server_start())
        await soon(first.idle.wait())
        workers = daemon.worker_pids()
        daemon.stop(signal.SIGKILL)
        assert (await first.until_done()).status in (Status.PEER_GONE, Status.SHUTTING_DOWN)
        await asyncio.to_thread(eventually, lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        with pytest.raises(OSError):  # noqa: PT011 - refused or gone
            client.start(server_start(), lambda _: None)
        daemon.start()
        await soon(Side().begin(client, server_start()).idle.wait())
        client.close()

    run(work())


TOO_LONG = client_start(NAME, b"h3", trust_anchors=(bytes(2500),) * 60)


def test_a_start_that_fits_into_no_packet_raises_and_costs_the_others_nothing(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        other = Side().begin(client, server_start())
        with pytest.raises(OSError, match=r"Start message too long: .* with 60 trust anchors"):
            client.start(TOO_LONG, lambda _: None)
        await soon(other.idle.wait())
        assert other.messages.empty()
        client.close()

    run(work())
    with BlockingClient(path) as client, pytest.raises(OSError, match="with 60 trust anchors"):
        client.start(TOO_LONG)


def test_closing_ends_open_handshakes(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        side = Side().begin(client, server_start())
        client.close()
        assert (await side.until_done()).status == Status.CANCELED
        again = Side().begin(client, server_start())  # it connects anew
        await soon(again.idle.wait())
        client.close()

    run(work())


def test_a_canceled_handshake_says_nothing_more(path: Path) -> None:
    async def work() -> None:
        client = HandshakeClient(path)
        side = Side().begin(client, client_start(NAME, b"h3"))
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


def test_a_daemon_that_does_not_answer_is_given_up(mute: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(mute.getsockname()))
        side = Side().begin(client, server_start(timeout=0.01))
        done = await side.until_done()
        assert (done.status, done.reason) == (Status.TIMED_OUT, "the handshake daemon does not answer")
        client.close()

    run(work())


def test_what_a_daemon_does_not_read_is_not_kept_without_end(mute: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(mute.getsockname()))
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


def test_the_loop_is_not_blocked_by_a_daemon_that_does_not_answer(mute: socket.socket) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(mute.getsockname()))
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
def test_a_daemon_that_talks_nonsense_is_dropped(mute: socket.socket, packet: bytes) -> None:
    async def work() -> None:
        client = HandshakeClient(Path(mute.getsockname()))
        side = Side().begin(client, server_start())
        accepted, _ = mute.accept()
        with accepted:
            accepted.send(packet)
            assert (await side.until_done()).status == Status.FAILED
        client.close()

    run(work())


def test_a_fault_of_one_handshakes_callback_does_not_touch_the_others(mute: socket.socket) -> None:
    async def work() -> None:
        def fail(_: Message) -> None:
            raise ZeroDivisionError

        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        client = HandshakeClient(Path(mute.getsockname()))
        client.start(server_start(), fail)
        good = Side().begin(client, server_start())
        client.start(server_start(), fail)
        gone = Side().begin(client, server_start())
        accepted, _ = mute.accept()
        with accepted:
            accepted.send(push_done(1, Outcome(status=Status.BUSY)) + push_done(2, Outcome(status=Status.BUSY)))
            assert (await good.until_done()).status == Status.BUSY
        assert (await gone.until_done()).status == Status.PEER_GONE
        assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError] * 2
        client.close()

    run(work())


def test_default_paths_are_those_of_the_daemon(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("HANDSHAKED_DIRECTORY", str(path.parent))
    with BlockingClient() as client:
        assert client.start(server_start()) == []
        assert client.fileno() > 0
