"""Differences over TCP: optional extensions, KeyUpdate, record_size_limit, middlebox compatibility."""

import pytest

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import CryptoData, TrafficSecret
from handshaked.model import Direction, Level
from tests.tls.pair import NOW, Pair, client_parameters, data, kinds, pair, server_parameters

BARE_CLIENT = {"alpns": (), "transport_parameters": None}
BARE_SERVER = {"alpn": None, "transport_parameters": None}


def run(client: dict[str, object] | None = None, server: dict[str, object] | None = None) -> Pair:
    return pair(
        client_parameters(**{**BARE_CLIENT, **(client or {})}),
        server_parameters(**{**BARE_SERVER, **(server or {})}),
        quic=False,
    ).run()


def test_protocols_and_transport_parameters_are_optional() -> None:
    done = run()
    assert [each.alpn for each in done.completed] == [None, None]
    assert "PeerTransportParameters" not in kinds(done.client_events)
    assert len(done.server.legacy_session_id) == 32
    assert len(done.secrets()) == 4


def test_record_size_limits_are_exchanged() -> None:
    done = run({"record_size_limit": 1000}, {"record_size_limit": 2000})
    assert done.server.peer_record_size_limit == 1000
    assert done.client.peer_record_size_limit == 2000


def test_record_size_limit_may_be_on_one_side_only() -> None:
    assert run({"record_size_limit": 1000}).client.peer_record_size_limit is None
    assert run(server={"record_size_limit": 1000}).client.peer_record_size_limit is None


@pytest.mark.parametrize("request_back", [True, False])
def test_key_update_changes_the_keys(request_back: bool) -> None:
    done = run()
    before = done.secrets()
    events = done.client.update_keys(request=request_back)
    done.client_events += events
    answer = done.server.receive(Level.APPLICATION, data(events), NOW)
    done.server_events += answer
    assert [each.direction for each in answer if isinstance(each, TrafficSecret)] == (
        [Direction.RECEIVE, Direction.SEND] if request_back else [Direction.RECEIVE]
    )
    done.client_events += done.client.receive(Level.APPLICATION, data(answer), NOW)
    after = done.secrets()
    assert after[Level.APPLICATION, "up"] != before[Level.APPLICATION, "up"]
    assert (after[Level.APPLICATION, "down"] != before[Level.APPLICATION, "down"]) is request_back


def test_key_update_must_end_its_record() -> None:
    done = run()
    update = data(done.client.update_keys(request=False))
    with pytest.raises(PeerError) as caught:
        done.server.receive(Level.APPLICATION, update * 2, NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("side", ["client", "server"])
def test_key_update_is_refused_over_quic(side: str) -> None:
    done = pair().run()
    with pytest.raises(LocalError):
        getattr(done, side).update_keys(request=False)
    with pytest.raises(PeerError) as caught:
        getattr(done, side).receive(Level.APPLICATION, b"\x18\0\0\x01\0", NOW)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize(
    ("message", "alert"),
    [
        (b"\x18\0\0\x01\x02", Alert.ILLEGAL_PARAMETER),
        (b"\x18\0\0\x02\0\0", Alert.DECODE_ERROR),
        (b"\x18\0\0\0", Alert.DECODE_ERROR),
        (b"\x01\0\0\0", Alert.UNEXPECTED_MESSAGE),
        (b"\x14\0\0\0", Alert.UNEXPECTED_MESSAGE),
    ],
)
def test_invalid_messages_after_the_handshake_are_refused(message: bytes, alert: Alert) -> None:
    done = run()
    with pytest.raises(PeerError) as caught:
        done.server.receive(Level.APPLICATION, message, NOW)
    assert caught.value.alert is alert


def test_crypto_data_has_complete_messages() -> None:
    for event in run().server_events:
        if isinstance(event, CryptoData):
            at = 0
            while at < len(event.data):
                at += 4 + int.from_bytes(event.data[at + 1 : at + 4])
            assert at == len(event.data)
