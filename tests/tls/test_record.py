"""The record layer: the requirements of RFC 8446 section 5, and arbitrary input."""

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
    """Return a layer that has received the peer's hello and reads at `level`."""
    layer = RecordLayer(role)
    pull_all(layer, RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1)))
    layer.install(secret(level, Direction.RECEIVE, suite))
    return layer


def refused(layer: RecordLayer, data: bytes) -> Alert:
    with pytest.raises(PeerError) as caught:
        pull_all(layer, data)
    return caught.value.alert


def sealed(inner: bytes, level: Level = Level.APPLICATION, sequence: int = 0) -> bytes:
    """Return a record with any TLSInnerPlaintext, valid or not."""
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

    def test_plaintext_message_spans_several_records(self):
        stream = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(40_000))
        records = pull_all(RecordLayer(Role.SERVER), stream)
        assert b"".join(record.fragment for record in records) == message(40_000)
        assert {record.level for record in records} == {Level.INITIAL}

    def test_only_the_first_hello_of_a_client_has_version_0301(self):
        client, server = RecordLayer(Role.CLIENT), RecordLayer(Role.SERVER)
        hellos = [client.protect(Level.INITIAL, HANDSHAKE, message(1)) for _ in range(2)]
        assert [hello[1:3] for hello in hellos] == [b"\3\1", b"\3\3"]
        assert server.protect(Level.INITIAL, HANDSHAKE, message(1))[1:3] == b"\3\3"

    @given(version=st.binary(min_size=2, max_size=2))
    def test_the_version_is_ignored(self, version):
        records = pull_all(RecordLayer(Role.SERVER), b"\x16" + version + b"\0\4" + message(0))
        assert [record.fragment for record in records] == [message(0)]


class TestNeeded:
    def test_nothing_after_the_record_is_read(self):
        """Reading `needed` bytes at a time leaves the bytes after the record."""
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

    def test_needed_is_the_rest_of_header_or_body(self):
        layer = RecordLayer(Role.SERVER)
        for piece, left in [(b"\x16\3\3", 2), (b"\0\4", 4), (b"\1\0", 2), (b"\0\0", 0)]:
            layer.receive(piece)
            assert layer.needed() == left

    def test_invalid_header_is_refused_before_the_body_is_received(self):
        assert refused(RecordLayer(Role.SERVER), b"\x16\3\3\xff\xff") is Alert.RECORD_OVERFLOW


class TestLimits:
    @pytest.mark.parametrize(("length", "alert"), [(2**14, None), (2**14 + 1, Alert.RECORD_OVERFLOW)])
    def test_length_of_plaintext_is_limited(self, length, alert):
        layer = RecordLayer(Role.SERVER)
        stream = b"\x16\3\1" + length.to_bytes(2) + message(length - 4)
        assert (refused(layer, stream) if alert else pull_all(layer, stream)[0].fragment) == (
            alert or message(length - 4)
        )

    def test_ciphertext_of_the_largest_length_is_read(self):
        stream = sealed(b"x" * 2**14 + b"\x17")
        assert len(pull_all(receiver(Level.APPLICATION), stream)[0].fragment) == 2**14

    def test_ciphertext_over_the_limit_is_refused(self):
        assert refused(receiver(Level.APPLICATION), b"\x17\3\3\x41\x01") is Alert.RECORD_OVERFLOW

    @pytest.mark.parametrize("inner", [b"x" * (2**14 + 1) + b"\x17", b"x\x17" + bytes(2**14)])
    def test_inner_plaintext_over_the_limit_is_refused(self, inner):
        assert refused(receiver(Level.APPLICATION), sealed(inner)) is Alert.RECORD_OVERFLOW

    def test_record_size_limit_of_the_peer_is_applied(self):
        layer = sender(Level.APPLICATION)
        layer.limit_sent(100)
        assert layer.max_payload == 99
        records = pull_all(receiver(Level.APPLICATION), layer.protect(Level.APPLICATION, DATA, bytes(250), padding=500))
        assert [len(record.fragment) for record in records] == [99, 99, 52]

    def test_record_size_limit_is_enforced_including_padding(self):
        layer = receiver(Level.APPLICATION)
        layer.limit_received(100)
        assert len(pull_all(layer, sealed(b"x" * 99 + b"\x17"))) == 1
        assert refused(layer, sealed(b"x" * 99 + b"\x17\0", sequence=1)) is Alert.RECORD_OVERFLOW

    def test_record_size_limit_has_bounds(self):
        layer = sender(Level.APPLICATION)
        with pytest.raises(PeerError) as caught:
            layer.limit_sent(63)
        assert caught.value.alert is Alert.ILLEGAL_PARAMETER
        layer.limit_sent(65535)
        assert layer.max_payload == MAX_PLAINTEXT


class TestContent:
    @pytest.mark.parametrize("kind", [0, 19, 24, 0x80, 0xFF])
    def test_unknown_outer_type_is_refused(self, kind):
        assert refused(RecordLayer(Role.SERVER), bytes([kind, 3, 3, 0, 1, 0])) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("inner", [b"", b"\0", bytes(2**14 + 1), b"x\x18", b"\1\x14"])
    def test_missing_or_unknown_inner_type_is_refused(self, inner):
        assert refused(receiver(Level.APPLICATION), sealed(inner)) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("kind", [HANDSHAKE, ALERT])
    def test_empty_handshake_or_alert_record_is_refused(self, kind):
        assert refused(receiver(Level.APPLICATION), sealed(bytes([kind, 0, 0]))) is Alert.UNEXPECTED_MESSAGE
        assert refused(RecordLayer(Role.SERVER), bytes([kind, 3, 3, 0, 0])) is Alert.UNEXPECTED_MESSAGE

    def test_number_of_empty_application_data_records_is_limited(self):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        empty = [out.protect(Level.APPLICATION, DATA, b"") for _ in range(MAX_EMPTY_RECORDS)]
        assert len(pull_all(layer, b"".join(empty))) == MAX_EMPTY_RECORDS
        assert refused(layer, out.protect(Level.APPLICATION, DATA, b"")) is Alert.UNEXPECTED_MESSAGE

    def test_application_data_during_the_handshake_is_refused(self):
        stream = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, DATA, b"x")
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_protected_record_before_keys_is_refused(self):
        stream = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert refused(RecordLayer(Role.SERVER), stream) is Alert.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("between", [ALERT, DATA])
    def test_other_records_within_a_message_are_refused(self, between):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        stream = out.protect(Level.APPLICATION, HANDSHAKE, message(10)[:7])
        stream += out.protect(Level.APPLICATION, between, b"\1\0")
        assert refused(layer, stream) is Alert.UNEXPECTED_MESSAGE

    def test_message_that_spans_a_key_change_is_refused(self):
        layer = RecordLayer(Role.SERVER)
        pull_all(layer, RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(10)[:-1]))
        with pytest.raises(PeerError) as caught:
            layer.install(secret(Level.HANDSHAKE, Direction.RECEIVE))
        assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


class TestAuthenticity:
    @pytest.mark.parametrize("suite", list(CipherSuite))
    @given(st.data())
    def test_any_flipped_bit_in_a_body_is_detected(self, suite, data):
        stream = bytearray(sender(Level.APPLICATION, suite).protect(Level.APPLICATION, DATA, b"attack at dawn"))
        bit = data.draw(st.integers(5 * 8, len(stream) * 8 - 1))
        stream[bit // 8] ^= 1 << bit % 8
        assert refused(receiver(Level.APPLICATION, suite), bytes(stream)) is Alert.BAD_RECORD_MAC

    def test_reordered_records_are_refused(self):
        out = sender(Level.APPLICATION)
        first, second = (out.protect(Level.APPLICATION, DATA, b"x") for _ in range(2))
        assert refused(receiver(Level.APPLICATION), second + first) is Alert.BAD_RECORD_MAC
        assert refused(receiver(Level.APPLICATION), first + first) is Alert.BAD_RECORD_MAC

    def test_version_is_authenticated(self):
        stream = bytearray(sender(Level.APPLICATION).protect(Level.APPLICATION, DATA, b"x"))
        stream[2] = 1
        assert refused(receiver(Level.APPLICATION), bytes(stream)) is Alert.BAD_RECORD_MAC

    @pytest.mark.parametrize("length", [0, 1, 15, 16])
    def test_record_shorter_than_a_tag_is_refused(self, length):
        stream = b"\x17\3\3" + length.to_bytes(2) + bytes(length)
        assert refused(receiver(Level.APPLICATION), stream) is Alert.BAD_RECORD_MAC

    def test_plaintext_after_keys_are_installed_is_refused(self):
        stream = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_plaintext_alert_of_a_client_without_keys_is_accepted(self):
        alert = RecordLayer(Role.CLIENT).protect(Level.INITIAL, ALERT, b"\2\x28")
        assert pull_all(receiver(Level.HANDSHAKE), alert) == [Record(ALERT, Level.INITIAL, b"\2\x28")]
        assert refused(receiver(Level.APPLICATION), alert) is Alert.UNEXPECTED_MESSAGE
        assert refused(receiver(Level.HANDSHAKE, role=Role.CLIENT), alert) is Alert.UNEXPECTED_MESSAGE
        protected = sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert refused(receiver(Level.HANDSHAKE), protected + alert) is Alert.UNEXPECTED_MESSAGE


class TestChangeCipherSpec:
    def test_one_is_dropped_for_each_hello(self):
        layer = RecordLayer(Role.SERVER)
        hello = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        assert len(pull_all(layer, hello + CCS + hello + CCS)) == 2
        assert refused(layer, CCS) is Alert.UNEXPECTED_MESSAGE
        assert refused(RecordLayer(Role.SERVER), hello + CCS + CCS) is Alert.UNEXPECTED_MESSAGE

    def test_one_among_protected_records_is_dropped(self):
        stream = CCS + sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert len(pull_all(receiver(Level.HANDSHAKE), stream)) == 1

    def test_client_accepts_one_before_the_server_hello(self):
        assert pull_all(RecordLayer(Role.CLIENT), CCS) == []

    @pytest.mark.parametrize("body", [b"", b"\0", b"\2", b"\1\1"])
    def test_any_other_value_is_refused(self, body):
        stream = b"\x14\3\3" + len(body).to_bytes(2) + body
        assert refused(receiver(Level.HANDSHAKE), stream) is Alert.UNEXPECTED_MESSAGE

    def test_one_before_the_first_hello_is_refused(self):
        assert refused(RecordLayer(Role.SERVER), CCS) is Alert.UNEXPECTED_MESSAGE

    def test_one_after_the_finished_is_refused(self):
        assert refused(receiver(Level.APPLICATION), CCS) is Alert.UNEXPECTED_MESSAGE

    def test_one_within_a_message_is_refused(self):
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

    def test_first_record_that_decrypts_ends_skipping(self):
        layer = receiver(Level.HANDSHAKE)
        layer.skip_early_data(1000)
        garbage = b"\x17\3\3\0\x20" + bytes(32)
        stream = garbage + sender(Level.HANDSHAKE).protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        assert len(pull_all(layer, stream)) == 1
        assert refused(layer, garbage) is Alert.BAD_RECORD_MAC

    def test_early_data_is_skipped_until_the_second_hello(self):
        layer = RecordLayer(Role.SERVER)
        hello = RecordLayer(Role.CLIENT).protect(Level.INITIAL, HANDSHAKE, message(1))
        early = sealed(bytes(100) + b"\x17")
        pull_all(layer, hello)
        layer.skip_early_data(1000)
        assert len(pull_all(layer, early + early + hello)) == 1
        assert refused(layer, early) is Alert.UNEXPECTED_MESSAGE

    def test_empty_records_count_towards_the_limit(self):
        layer = receiver(Level.HANDSHAKE)
        layer.skip_early_data(10)
        assert refused(layer, b"\x17\3\3\0\0" * 11) is Alert.UNEXPECTED_MESSAGE

    def test_accepted_early_data_is_limited(self):
        layer, out = receiver(Level.EARLY), sender(Level.EARLY)
        layer.limit_early_data(10)
        assert pull_all(layer, out.protect(Level.EARLY, DATA, bytes(10)))[0].level is Level.EARLY
        assert refused(layer, out.protect(Level.EARLY, DATA, b"x")) is Alert.UNEXPECTED_MESSAGE


class TestKeys:
    def test_keys_of_lower_levels_remain_until_a_higher_one_is_used(self):
        layer = sender(Level.HANDSHAKE)
        layer.install(secret(Level.APPLICATION, Direction.SEND))
        assert layer.send_level is Level.APPLICATION
        layer.protect(Level.HANDSHAKE, HANDSHAKE, message(1))
        layer.protect(Level.APPLICATION, DATA, b"x")
        with pytest.raises(LocalError):
            layer.protect(Level.HANDSHAKE, HANDSHAKE, message(1))

    def test_new_secret_at_the_same_level_resets_the_sequence_number(self):
        out, layer = sender(Level.APPLICATION), receiver(Level.APPLICATION)
        pull_all(layer, out.protect(Level.APPLICATION, DATA, b"x"))
        out.install(secret(Level.APPLICATION, Direction.SEND, fill=8))
        layer.install(secret(Level.APPLICATION, Direction.RECEIVE, fill=8))
        assert layer.state(Direction.RECEIVE) == out.state(Direction.SEND)
        assert layer.state(Direction.RECEIVE).sequence == 0
        assert pull_all(layer, out.protect(Level.APPLICATION, DATA, b"y"))[0].fragment == b"y"

    def test_no_state_without_keys(self):
        for direction in Direction:
            with pytest.raises(LocalError):
                RecordLayer(Role.CLIENT).state(direction)

    def test_reprs_omit_secrets(self):
        layer = sender(Level.APPLICATION)
        state = layer.state(Direction.SEND)
        record = Record(DATA, Level.APPLICATION, b"fragment of data")
        shown = repr((layer, state, record, secret(Level.APPLICATION, Direction.SEND)))
        for hidden in (state.key, state.iv, bytes([7]) * 4, b"fragment"):
            assert repr(hidden)[2:-1] not in shown


class TestAlerts:
    @pytest.mark.parametrize("alert", list(Alert))
    def test_alert_round_trip(self, alert):
        assert pull_alert(push_alert(alert)) == alert
        assert push_alert(alert)[0] == (1 if alert in (Alert.CLOSE_NOTIFY, Alert.USER_CANCELED) else 2)

    @pytest.mark.parametrize("fragment", [b"\2", b"\2\x28\2"])
    def test_fragmented_or_coalesced_alert_is_refused(self, fragment):
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
