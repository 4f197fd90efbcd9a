"""Limits on the bytes that handshakes in flight keep, and on attached descriptors that are not closed."""

from pathlib import Path

import pytest

from handshaked.callers.account import Limits, Totals
from handshaked.errors import Status
from handshaked.events import CryptoData
from handshaked.model import Level
from handshaked.wire.family import push_cancel, push_crypto, push_start
from handshaked.wire.messages import Acknowledged
from tests.handshake_channel import HandshakeChannel, client_start, eventually, served, server_start, shake_hands
from tests.registered import Registered
from tests.upcall.conftest import NAME

UNFINISHED = CryptoData(Level.INITIAL, b"\1\0\xff\xf0" + bytes(30_000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "handshake.sock"


@pytest.mark.parametrize(
    "limits",
    [Limits(kept_bytes=200_000), Limits(totals=Totals(kept_bytes=200_000))],
    ids=["of one caller", "of all callers"],
)
def test_requests_keep_limited_bytes(registered: Registered, path: Path, limits: Limits) -> None:
    large = server_start(trust_anchors=(bytes(16_000),) * 4)
    with served(registered, path, limits), HandshakeChannel(path) as one, HandshakeChannel(path) as two:
        one.send(push_start(1, large, ack=True))
        one.until(1, Acknowledged)
        two.send(push_start(1, large, ack=True))
        two.until(1, Acknowledged)
        two.send(push_start(2, large))
        outcome = two.outcome(2)
        assert outcome.status == Status.RATE_LIMITED
        assert "keep 160808 bytes, and may keep no more now" in outcome.reason
        one.sock.close()
        assert eventually(lambda: accepts(two, 3, large))


def accepts(channel: HandshakeChannel, sequence: int, start: object) -> bool:
    """Return whether the handshake `start` begins; end it."""
    channel.send(push_start(sequence, start), push_cancel(sequence))  # type: ignore[arg-type] # a Start
    return channel.outcome(sequence).status == Status.CANCELED


def test_received_data_counts(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(kept_bytes=100_000)) as service, HandshakeChannel(path) as channel:
        for number in range(2):
            channel.send(push_start(number, server_start()), push_crypto(number, UNFINISHED, ack=True))
            channel.until(number, Acknowledged)
        channel.send(push_crypto(1, CryptoData(Level.INITIAL, bytes(30_000))))
        assert channel.outcome(1).status == Status.RATE_LIMITED
        assert service.in_flight == 1
        channel.send(push_crypto(0, CryptoData(Level.INITIAL, bytes(30_000)), ack=True))
        channel.until(0, Acknowledged)
        assert service.in_flight == 1


def test_ended_handshakes_keep_nothing(registered: Registered, path: Path) -> None:
    with served(registered, path, Limits(kept_bytes=50_000)), HandshakeChannel(path) as channel:
        for number in range(0, 20, 2):
            client, server = shake_hands(channel, number, number + 1, client_start(NAME, b"h3"), server_start())
            assert (client.status, server.status) == (Status.OK, Status.OK)


def test_packets_wait_until_there_is_room_for_their_descriptors(registered: Registered, path: Path) -> None:
    with (
        served(registered, path, Limits(descriptors=253)),
        HandshakeChannel(path) as one,
        HandshakeChannel(path) as two,
    ):
        for first in range(0, 20, 2):  # four packets: the kernel lets ordinary users send 1,024 that are not received
            sent = [(number, channel) for number in (first, first + 1) for channel in (one, two)]
            for number, channel in sent:
                channel.send(push_start(number, server_start(), ack=True), descriptors=(channel.sock.fileno(),) * 200)
            for number, channel in sent:
                channel.until(number, Acknowledged)
