"""The record layer: what RFC 8446 section 5 asks, record by record, and any input at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handshaked.errors import Alert, LocalError, PeerError
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.tls.protection import RecordProtection
from handshaked.tls.record import (
    MAX_EMPTY_RECORDS,
    MAX_PLAINTEXT,
    ContentType,
    Record,
    RecordLayer,
    pull_alert,
    push_alert,
)
from tests.tls.test_protection import FINISHED, FINISHED_RECORD, FINISHED_SECRET

HANDSHAKE = ContentType.HANDSHAKE
DATA = ContentType.APPLICATION_DATA
ALERT = ContentType.ALERT
CCS = bytes.fromhex("140303000101")


def secret(level: Level, direction: Direction, suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256, fill: int = 7):
    return TrafficSecret(level, direction, suite, bytes([fill]) * suite.secret_length)


def message(length: int, kind: int = 1) -> bytes:
    """A handshake message with a body of `length` bytes."""
    return bytes([kind]) + length.to_bytes(3) + bytes(length)


def pull_all(layer: RecordLayer, data: bytes = b"") -> list[Record]:
    layer.receive(data)
    records = []
    while (record := layer.pull()) is not None:
        records.append(record)
    return records


def sender(level: Level, suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256, role: Role = Role.CLIENT) -> RecordLayer:
    layer = RecordLayer(role)
    layer.install(secret(level, Direction.SEND, suite))
    return layer


def receiver(
    level: Level, suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256, role: Role = Role.SERVER
) -> RecordLayer:
    """A layer that has had the peer's hello and reads at `level`."""
    layer = RecordLayer(role)
    pull_all(layer, RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1)))
    layer.install(secret(level, Direction.RECEIVE, suite))
    return layer


def refused(layer: RecordLayer, data: bytes) -> Alert:
    with pytest.raises(PeerError) as caught:
        pull_all(layer, data)
    return caught.value.alert


def sealed(inner: bytes, level: Level = Level.APPLICATION, sequence: int = 0) -> bytes:
    """A record around any TLSInnerPlaintext, however wrong."""
    protection = RecordProtection(CipherSuite.AES_128_GCM_SHA256, secret(level, Direction.SEND).secret)
    for _ in range(sequence):
        protection.seal(b"", b"")
    header = bytes([23, 3, 3]) + (len(inner) + 16).to_bytes(2)
    return header + protection.seal(header, inner)


class TestRoundTrip:
    @pytest.mark.parametrize("suite", list(CipherSuite))
    @given(
        chunks=st.lists(st.binary(max_size=200), max_size=8),
        padding=st.integers(0, 40),
        cut=st.integers(1, 64),
    )
    def test_any_split_gives_the_same_records(self, suite, chunks, padding, cut):
        out = sender(Level.APPLICATION, suite)
        stream = b"".join(out.protect(Level.APPLICATION, DATA, chunk, padding) for chunk in chunks)
        whole = pull_all(receiver(Level.APPLICATION, suite), stream)
        assert [record.fragment for record in whole] == chunks
        layer = receiver(Level.APPLICATION, suite)
        pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)]
        assert [record for piece in pieces for record in pull_all(layer, piece)] == whole
        assert layer.buffered == 0

    def test_large_data_is_fragmented_and_full_records_are_used(self):
        data = bytes(range(256)) * 200
        stream = sender(Level.APPLICATION).protect(Level.APPLICATION, DATA, data)
        records = pull_all(receiver(Level.APPLICATION), stream)
        assert [len(record.fragment) for record in records] == [MAX_PLAINTEXT] * 3 + [len(data) - 3 * MAX_PLAINTEXT]
        assert b"".join(record.fragment for record in records) == data

    def test_plaintext_message_over_several_records(self):
        stream = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(40_000))
        records = pull_all(RecordLayer(Role.SERVER), stream)
        assert b"".join(record.fragment for record in records) == message(40_000)
        assert {record.level for record in records} == {Level.INITIAL}

    def test_the_first_hello_of_a_client_alone_has_version_0301(self):
        client, server = RecordLayer(Role.CLIENT), RecordLayer(Role.SERVER)
        hellos = [client.protect(Level.INITIAL, HANDSHAKE, message(1)) for _ in range(2)]
        assert [hello[1:3] for hello in hellos] == [b"\3\1", b"\3\3"]
        assert server.protect(Level.INITIAL, HANDSHAKE, message(1))[1:3] == b"\3\3"

    @given(version=st.binary(min_size=2, max_size=2))
    def test_the_version_is_ignored(self, version):
        records = pull_all(RecordLayer(Role.SERVER), b"\x16" + version + b"\0\4" + message(0))
        assert [record.fragment for record in records] == [message(0)]


class TestNeeded:
    def test_never_beyond_the_record(self):
        """Reading `needed` bytes at a time leaves what is behind the record alone."""
        stream = FINISHED_RECORD + b"what the peer sent right behind it"
        layer = RecordLayer(Role.CLIENT)
        layer.install(
            TrafficSecret(Level.HANDSHAKE, Direction.RECEIVE, CipherSuite.AES_128_GCM_SHA256, FINISHED_SECRET)
        )
        at, asked, record = 0, [], None
        while record is None:
            asked.append(layer.needed())
            layer.receive(stream[at : at + asked[-1]])
            at += asked[-1]
            record = layer.pull()
        assert (asked, at, layer.buffered) == ([5, 53], len(FINISHED_RECORD), 0)
        assert record == Record(HANDSHAKE, Level.HANDSHAKE, FINISHED)

    def test_rest_of_header_and_body(self):
        layer = RecordLayer(Role.SERVER)
        for piece, left in [(b"\x16\3\3", 2), (b"\0\4", 4), (b"\1\0", 2), (b"\0\0", 0)]:
            layer.receive(piece)
            assert layer.needed() == left

    def test_a_wrong_header_is_refused_before_its_body_is_there(self):
        assert refused(RecordLayer(Role.SERVER), b"\x16\3\3\xff\xff") is Alert.RECORD_OVERFLOW


class TestLimits:
    @pytest.mark.parametrize(("length", "alert"), [(2**14, None), (2**14 + 1, Alert.RECORD_OVERFLOW)])
    def test_plaintext(self, length, alert):
        layer = RecordLayer(Role.SERVER)
        stream = b"\x16\3\1" + length.to_bytes(2) + message(length - 4)
        assert (refused(layer, stream) if alert else pull_all(layer, stream)[0].fragment) == (
            alert or message(length - 4)
        )

    def test_ciphertext_of_the_largest_length_is_read(self):
        stream = sealed(b"x" * 2**14 + b"\x17")
        assert len(pull_all(receiver(Level.APPLICATION), stream)[0].fragment) == 2**14

    def test_ciphertext_too_long(self):
        assert refused(receiver(Level.APPLICATION), b"\x17\3\3\x41\x01") is Alert.RECORD_OVERFLOW

    @pytest.mark.parametrize("inner", [b"x" * (2**14 + 1) + b"\x17", b"x\x17" + bytes(2**14)])
    def test_inner_plaintext_too_long(self, inner):
        assert refused(receiver(Level.APPLICATION), sealed(inner)) is Alert.RECORD_OVERFLOW

    def test_record_size_limit_is_respected(self):
        layer = sender(Level.APPLICATION)
        layer.limit_sent(100)
        assert layer.max_payload == 99
        records = pull_all(receiver(Level.APPLICATION), layer.protect(Level.APPLICATION, DATA, bytes(250), padding=500))
        assert [len(record.fragment) for record in records] == [99, 99, 52]

    def test_record_size_limit_is_enforced_padding_included(self):
        layer = receiver(Level.APPLICATION)
        layer.limit_received(100)
        assert len(pull_all(layer, sealed(b"x" * 99 + b"\x17"))) == 1
        assert refused(layer, sealed(b"x" * 99 + b"\x17\0", sequence=1)) is Alert.RECORD_OVERFLOW

    def test_record_size_limit_bounds(self):
        layer = sender(Level.APPLICATION)
        with pytest.raises(PeerError) as caught:
            layer.limit_sent(63)
        assert caught.value.alert is Alert.ILLEGAL_PARAMETER
        layer.limit_sent(65535)
        assert layer.max_payload == MAX_PLAINTEXT


class TestContent:
    @pytest.mark.parametrize("kind", [0, 19, 24, 0x80, 0xFF])
    def test_unknown_outer_type(self, kind):
        assert refused(RecordLayer(Role.SERVER), bytes([kind, 3, 3, 0, 1, 0])) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("inner", [b"", b"\0", bytes(2**14 + 1), b"x\x18", b"\1\x14"])
    def test_inner_without_or_with_a_wrong_type(self, inner):
        assert refused(receiver(Level.APPLICATION), sealed(inner)) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("kind", [HANDSHAKE, ALERT])
    def test_empty_handshake_or_alert(self, kind):
        assert refused(receiver(Level.APPLICATION), sealed(bytes([kind, 0, 0]))) is Alert.UNEXPECTED_MESSAGE
        assert refused(RecordLayer(Role.SERVER), bytes([kind, 3, 3, 0, 0])) is Alert.UNEXPECTED_MESSAGE

    def test_empty_application_data_is_allowed_but_not_for_ever(self):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        empty = [out.protect(Level.APPLICATION, DATA, b"") for _ in range(MAX_EMPTY_RECORDS)]
        assert len(pull_all(layer, b"".join(empty))) == MAX_EMPTY_RECORDS
        assert refused(layer, out.protect(Level.APPLICATION, DATA, b"")) is Alert.UNEXPECTED_MESSAGE

    def test_application_data_in_the_handshake(self):
        stream = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, DATA, b"x")
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_protected_record_before_there_are_keys(self):
        stream = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert refused(RecordLayer(Role.SERVER), stream) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("between", [ALERT, DATA])
    def test_nothing_within_a_message(self, between):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        stream = out.protect(Level.APPLICATION, HANDSHAKE, message(10)[:7])
        stream += out.protect(Level.APPLICATION, between, b"\1\0")
        assert refused(layer, stream) is Alert.UNEXPECTED_MESSAGE

    def test_a_message_must_not_span_a_key_change(self):
        layer = RecordLayer(Role.SERVER)
        pull_all(layer, RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(10)[:-1]))
        with pytest.raises(PeerError) as caught:
            layer.install(secret(Level.HANDSHAKE, Direction.RECEIVE))
        assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


class TestAuthenticity:
    @pytest.mark.parametrize("suite", list(CipherSuite))
    @given(st.data())
    def test_any_bit_flip_of_a_body_is_noticed(self, suite, data):
        stream = bytearray(sender(Level.APPLICATION, suite).protect(Level.APPLICATION, DATA, b"attack at dawn"))
        bit = data.draw(st.integers(5 * 8, len(stream) * 8 - 1))
        stream[bit // 8] ^= 1 << bit % 8
        assert refused(receiver(Level.APPLICATION, suite), bytes(stream)) is Alert.BAD_RECORD_MAC

    def test_order_matters(self):
        out = sender(Level.APPLICATION)
        first, second = (out.protect(Level.APPLICATION, DATA, b"x") for _ in range(2))
        assert refused(receiver(Level.APPLICATION), second + first) is Alert.BAD_RECORD_MAC
        assert refused(receiver(Level.APPLICATION), first + first) is Alert.BAD_RECORD_MAC

    def test_the_version_is_authentic(self):
        stream = bytearray(sender(Level.APPLICATION).protect(Level.APPLICATION, DATA, b"x"))
        stream[2] = 1
        assert refused(receiver(Level.APPLICATION), bytes(stream)) is Alert.BAD_RECORD_MAC

    @pytest.mark.parametrize("length", [0, 1, 15, 16])
    def test_too_short_for_a_tag(self, length):
        stream = b"\x17\3\3" + length.to_bytes(2) + bytes(length)
        assert refused(receiver(Level.APPLICATION), stream) is Alert.BAD_RECORD_MAC

    def test_plaintext_in_spite_of_keys(self):
        stream = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_plaintext_alert_of_a_client_that_never_got_keys(self):
        alert = RecordLayer(Role.CLIENT).protect(Level.INITIAL, ALERT, b"\2\x28")
        assert pull_all(receiver(Level.HANDSHAKE), alert) == [Record(ALERT, Level.INITIAL, b"\2\x28")]
        assert refused(receiver(Level.APPLICATION), alert) is Alert.UNEXPECTED_MESSAGE
        assert refused(receiver(Level.HANDSHAKE, role=Role.CLIENT), alert) is Alert.UNEXPECTED_MESSAGE
        protected = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert refused(receiver(Level.HANDSHAKE), protected + alert) is Alert.UNEXPECTED_MESSAGE


class TestChangeCipherSpec:
    def test_dropped_once_for_each_hello(self):
        layer = RecordLayer(Role.SERVER)
        hello = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        assert len(pull_all(layer, hello + CCS + hello + CCS)) == 2
        assert refused(layer, CCS) is Alert.UNEXPECTED_MESSAGE
        assert refused(RecordLayer(Role.SERVER), hello + CCS + CCS) is Alert.UNEXPECTED_MESSAGE

    def test_dropped_among_protected_records(self):
        stream = CCS + sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert len(pull_all(receiver(Level.HANDSHAKE), stream)) == 1

    def test_a_client_takes_it_before_the_servers_hello(self):
        assert pull_all(RecordLayer(Role.CLIENT), CCS) == []

    @pytest.mark.parametrize("body", [b"", b"\0", b"\2", b"\1\1"])
    def test_any_other_value(self, body):
        stream = b"\x14\3\3" + len(body).to_bytes(2) + body
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_before_the_first_hello(self):
        assert refused(RecordLayer(Role.SERVER), CCS) is Alert.UNEXPECTED_MESSAGE

    def test_after_the_peers_finished(self):
        assert refused(receiver(Level.APPLICATION), CCS) is Alert.UNEXPECTED_MESSAGE

    def test_within_a_message(self):
        stream = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1) + b"\1\0")
        assert refused(RecordLayer(Role.SERVER), stream + CCS) is Alert.UNEXPECTED_MESSAGE


class TestEarlyData:
    def test_rejected_early_data_is_skipped_up_to_the_limit(self):
        early = [sealed(bytes(100) + b"\x17", sequence=n) for n in range(3)]
        layer = receiver(Level.HANDSHAKE)
        layer.install(secret(Level.HANDSHAKE, Direction.RECEIVE, fill=8))
        layer.skip_early_data(200)
        assert pull_all(layer, early[0] + CCS + early[1]) == []
        assert refused(layer, early[2]) is Alert.UNEXPECTED_MESSAGE

    def test_the_first_record_that_opens_ends_it(self):
        layer = receiver(Level.HANDSHAKE)
        layer.skip_early_data(1000)
        garbage = b"\x17\3\3\0\x20" + bytes(32)
        stream = garbage + sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert len(pull_all(layer, stream)) == 1
        assert refused(layer, garbage) is Alert.BAD_RECORD_MAC

    def test_after_a_retry_until_the_second_hello(self):
        layer = RecordLayer(Role.SERVER)
        hello = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        early = sealed(bytes(100) + b"\x17")
        pull_all(layer, hello)
        layer.skip_early_data(1000)
        assert len(pull_all(layer, early + early + hello)) == 1
        assert refused(layer, early) is Alert.UNEXPECTED_MESSAGE

    def test_empty_garbage_counts_too(self):
        layer = receiver(Level.HANDSHAKE)
        layer.skip_early_data(10)
        assert refused(layer, b"\x17\3\3\0\0" * 11) is Alert.UNEXPECTED_MESSAGE

    def test_accepted_early_data_has_a_limit(self):
        layer, out = receiver(Level.EARLY), sender(Level.EARLY)
        layer.limit_early_data(10)
        assert pull_all(layer, out.protect(Level.EARLY, DATA, bytes(10)))[0].level is Level.EARLY
        assert refused(layer, out.protect(Level.EARLY, DATA, b"x")) is Alert.UNEXPECTED_MESSAGE


class TestKeys:
    def test_lower_levels_stay_until_a_higher_one_is_used(self):
        layer = sender(Level.HANDSHAKE)
        layer.install(secret(Level.APPLICATION, Direction.SEND))
        assert layer.send_level is Level.APPLICATION
        layer.protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        layer.protect(Level.APPLICATION, DATA, b"x")
        with pytest.raises(LocalError):
            layer.protect(Level.HANDSHAKE, HANDSHAKE, message(1))

    def test_a_new_secret_at_the_same_level_starts_anew(self):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        pull_all(layer, out.protect(Level.APPLICATION, DATA, b"x"))
        out.install(secret(Level.APPLICATION, Direction.SEND, fill=8))
        layer.install(secret(Level.APPLICATION, Direction.RECEIVE, fill=8))
        assert layer.state(Direction.RECEIVE) == out.state(Direction.SEND)
        assert layer.state(Direction.RECEIVE).sequence == 0
        assert pull_all(layer, out.protect(Level.APPLICATION, DATA, b"y"))[0].fragment == b"y"

    def test_no_keys_no_state(self):
        for direction in Direction:
            with pytest.raises(LocalError):
                RecordLayer(Role.CLIENT).state(direction)

    def test_secrets_show_nowhere(self):
        layer = sender(Level.APPLICATION)
        state = layer.state(Direction.SEND)
        record = Record(DATA, Level.APPLICATION, b"fragment of data")
        shown = repr((layer, state, record, secret(Level.APPLICATION, Direction.SEND)))
        for hidden in (state.key, state.iv, bytes([7]) * 4, b"fragment"):
            assert repr(hidden)[2:-1] not in shown


class TestAlerts:
    @pytest.mark.parametrize("alert", list(Alert))
    def test_round_trip(self, alert):
        assert pull_alert(push_alert(alert)) == alert
        assert push_alert(alert)[0] == (1 if alert in (Alert.CLOSE_NOTIFY, Alert.USER_CANCELED) else 2)

    @pytest.mark.parametrize("fragment", [b"\2", b"\2\x28\2"])
    def test_neither_fragmented_nor_coalesced(self, fragment):
        with pytest.raises(PeerError) as caught:
            pull_alert(fragment)
        assert caught.value.alert is Alert.DECODE_ERROR


@given(data=st.binary(max_size=400), level=st.sampled_from(Level), role=st.sampled_from(Role))
def test_any_bytes_give_records_or_a_peer_error(data, level, role):
    layer = RecordLayer(role) if level is Level.INITIAL else receiver(level, role=role)
    try:
        pull_all(layer, data)
    except PeerError:
        return
    assert layer.buffered <= 5 + 2**14 + 256
