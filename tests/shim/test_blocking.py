"""BlockingClient: handshakes through a real daemon, and daemons that are absent or silent."""

import socket
from pathlib import Path

import pytest

from handshaked.errors import Alert, Status
from handshaked.events import CryptoData, PeerTransportParameters
from handshaked.model import Level, Outcome
from handshaked.shim import BlockingClient, Message
from handshaked.wire.family import push_done
from handshaked.wire.lookup import push_lookup_answer
from handshaked.wire.messages import Done, Lookup, LookupAnswer
from handshaked.wire.netlink import push_ack
from tests.handshake_channel import PARAMETERS, client_start, server_start
from tests.quic.datagrams import datagrams
from tests.shim.conftest import CLIENT_NAME


def crypto(messages: list[Message]) -> list[CryptoData]:
    return [message for message in messages if isinstance(message, CryptoData)]


def outcome(messages: list[Message]) -> Outcome:
    assert isinstance(messages[-1], Done)
    return messages[-1].outcome


def test_two_clients_do_a_handshake(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start(CLIENT_NAME, b"h3")))
        assert theirs.start(server_start(transport_parameters=None)) == []
        assert theirs.receive(hello.level, hello.data) == [PeerTransportParameters(PARAMETERS, b"h3")]
        flight = crypto(theirs.proceed(PARAMETERS))
        answer: list[Message] = []
        for data in flight:
            answer += ours.receive(data.level, data.data)
        assert outcome(answer).status == Status.OK
        (finished,) = crypto(answer)
        assert outcome([m for m in theirs.receive(finished.level, finished.data) if isinstance(m, Done)]).status == 0
        # The connection can be used for another handshake.
        assert len(crypto(ours.start(client_start(CLIENT_NAME, b"h3")))) == 1


def test_handshake_message_may_arrive_byte_by_byte(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start(CLIENT_NAME, b"h3")))
        theirs.start(server_start())
        for byte in hello.data[:-1]:
            assert theirs.receive(Level.INITIAL, bytes([byte])) == []
        assert theirs.receive(Level.INITIAL, b"") == []
        assert len(crypto(theirs.receive(Level.INITIAL, hello.data[-1:]))) == 2


def test_rejected_handshake_has_alert(path: Path) -> None:
    with BlockingClient(path) as ours, BlockingClient(path) as theirs:
        (hello,) = crypto(ours.start(client_start("unknown.example.com", b"h3")))
        theirs.start(server_start(registration="client"))
        assert outcome(theirs.receive(hello.level, hello.data)).alert is Alert.UNRECOGNIZED_NAME


def test_lookup_names_registration(path: Path) -> None:
    with BlockingClient(path) as client:
        (hello,) = crypto(client.start(client_start(CLIENT_NAME, b"h3")))
        for question in (Lookup(client_hello=hello.data), Lookup(datagrams=tuple(datagrams(hello.data)))):
            assert client.look_up(question) == LookupAnswer(0, "client", b"h3", CLIENT_NAME)
        assert client.look_up(Lookup()).status == Status.INVALID


def test_crypto_data_of_any_size_is_sent(path: Path) -> None:
    with BlockingClient(path) as client:
        client.start(server_start())
        assert outcome(client.receive(Level.INITIAL, b"\1\0\xff\xff" + bytes(300_000))).status == Status.REFUSED


def test_silent_daemon_raises_timeout(silent_daemon: socket.socket) -> None:
    with (
        BlockingClient(Path(silent_daemon.getsockname())) as client,
        pytest.raises(TimeoutError, match="does not answer"),
    ):
        client.start(server_start(timeout=0.01))


def test_daemon_that_does_not_read_raises_timeout(silent_daemon: socket.socket) -> None:
    def send_on() -> None:
        while True:
            client.receive(Level.INITIAL, bytes(30_000))

    with BlockingClient(Path(silent_daemon.getsockname())) as client:
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(push_ack(1))
            client.start(server_start(timeout=0.01))
            for _ in range(100):
                accepted.send(push_ack(1))
            with pytest.raises(TimeoutError, match="does not answer"):
                send_on()


def test_closed_connection_raises_connection_error(silent_daemon: socket.socket) -> None:
    with BlockingClient(Path(silent_daemon.getsockname())) as client:
        silent_daemon.accept()[0].close()
        with pytest.raises(ConnectionError):
            client.start(server_start())


def test_missing_daemon_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BlockingClient(tmp_path / "nothing")


def test_late_answers_to_other_handshakes_are_ignored(silent_daemon: socket.socket) -> None:
    with BlockingClient(Path(silent_daemon.getsockname())) as client:
        accepted, _ = silent_daemon.accept()
        with accepted:
            accepted.send(
                push_done(99, Outcome()) + push_lookup_answer(99, LookupAnswer(5)) + push_ack(99) + push_ack(1)
            )
            assert client.start(server_start()) == []


def test_default_path_is_found_by_environment(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("HANDSHAKED_DIRECTORY", str(path.parent))
    with BlockingClient() as client:
        assert client.start(server_start()) == []
        assert client.fileno() > 0
