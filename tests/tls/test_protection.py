"""Keys, nonces and limits of one direction of records."""

from __future__ import annotations

import pytest

from handshaked.errors import LocalError, PeerError
from handshaked.events import TrafficSecret
from handshaked.model import CipherSuite, Direction, Level, Role
from handshaked.tls.protection import RecordProtection
from handshaked.tls.record import ContentType, RecordLayer

HANDSHAKE = ContentType.HANDSHAKE

# RFC 8448 section 3, simple 1-RTT handshake: the client's handshake traffic secret, the keys made of it, and its
# Finished with the record that carried it.
FINISHED_SECRET = bytes.fromhex("b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21")
FINISHED_KEY = bytes.fromhex("dbfaa693d1762c5b666af5d950258d01")
FINISHED_IV = bytes.fromhex("5bd3c71b836e0b76bb73265f")
FINISHED = bytes.fromhex("14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61")
FINISHED_RECORD = bytes.fromhex(
    "170303003575ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f80338ac98fc46deb384bd1caeacab6867d726c405"
    "46"
)


class TestKnownAnswers:
    def test_rfc_8448_finished(self):
        layer = RecordLayer(Role.CLIENT)
        layer.install(TrafficSecret(Level.HANDSHAKE, Direction.SEND, CipherSuite.AES_128_GCM_SHA256, FINISHED_SECRET))
        state = layer.state(Direction.SEND)
        assert (state.key, state.iv, state.sequence) == (FINISHED_KEY, FINISHED_IV, 0)
        assert layer.protect(Level.HANDSHAKE, HANDSHAKE, FINISHED) == FINISHED_RECORD
        assert layer.state(Direction.SEND).sequence == 1


class TestLimits:
    def test_key_seals_no_more_records_than_its_limit(self):
        protection = RecordProtection(CipherSuite.AES_128_GCM_SHA256, bytes(32), sequence=2**24 - 1)
        protection.seal(b"", b"")
        with pytest.raises(LocalError):
            protection.seal(b"", b"")

    def test_sequence_numbers_do_not_wrap(self):
        protection = RecordProtection(CipherSuite.CHACHA20_POLY1305_SHA256, bytes(32), sequence=2**64 - 1)
        with pytest.raises(PeerError):
            protection.open(b"", bytes(16))
