"""Use the cipher suite ADDED in every layer: test_cipher_suites.py runs this in a copy of the package that has it."""

import pytest

from handshaked.control.requests.arguments import Arguments
from handshaked.control.requests.policies import pull_policy
from handshaked.datapath import quic_options
from handshaked.datapath.ktls import push_crypto_info
from handshaked.errors import LocalError
from handshaked.events import TrafficSecret
from handshaked.model import DEFAULT_CIPHER_SUITES, CipherSuite, Direction, Level
from handshaked.tls.protection import RecordProtection, RecordState
from handshaked.wire.family import pull_from_daemon, push_secret
from tests.tls.pair import client_parameters, pair

SUITE = CipherSuite["ADDED"]


def check() -> None:
    """Raise AssertionError in a layer that does not know the suite."""
    assert SUITE in DEFAULT_CIPHER_SUITES
    assert pull_policy(Arguments({"cipher_suites": ["TLS_ADDED"]})).cipher_suites == ("ADDED",)

    shaken = pair(client_parameters(cipher_suites=(SUITE,))).run()
    assert [end.cipher_suite for end in shaken.completed] == [SUITE, SUITE]
    assert {len(secret) for secret in shaken.secrets().values()} == {48}

    secret = TrafficSecret(Level.APPLICATION, Direction.SEND, SUITE, bytes(48))
    assert quic_options.pull_crypto_secret(quic_options.push_crypto_secret(secret)) == secret
    assert [message for _, message in pull_from_daemon(push_secret(1, secret))] == [secret]

    state = RecordState(SUITE, bytes(32), bytes(range(12)), 0)
    assert push_crypto_info(state)[2:4] == (99).to_bytes(2, "little")
    assert push_crypto_info(state)[4:16] == bytes(range(12)), "no salt"

    records = RecordProtection(SUITE, bytes(48), sequence=4)
    records.seal(b"header", b"the last record")
    with pytest.raises(LocalError):
        records.seal(b"header", b"one too many")


if __name__ == "__main__":
    check()
