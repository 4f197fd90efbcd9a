"""External pre-shared keys, with and without certificates."""

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.model import CipherSuite, Group
from handshaked.tls.parameters import Tickets
from handshaked.tls.psk import ExternalPsk
from tests.tls.pair import client_parameters, pair, server_parameters
from tests.tls.test_resumption import KEYS, first, tickets_of

PSK = ExternalPsk(b"NVMe1R01 host subsystem", bytes(range(32)))
LONG = ExternalPsk(b"NVMe1R02 host subsystem", bytes(range(48)), "sha384")


class Source(dict[bytes, ExternalPsk]):
    """Keys by identity."""

    def __init__(self, *keys: ExternalPsk) -> None:
        super().__init__({key.identity: key for key in keys})

    def find(self, identity: bytes) -> ExternalPsk | None:
        return self.get(identity)


class Accepting:
    """A verifier that accepts everything."""

    trust = b"everything"

    def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
        return


@pytest.mark.parametrize("psk", [PSK, LONG])
@pytest.mark.parametrize("group", [Group.X25519, Group.SECP384R1])
@pytest.mark.parametrize("quic", [True, False])
def test_psk_replaces_certificates(psk: ExternalPsk, group: Group, quic: bool) -> None:
    server = server_parameters(credential=None, psks=Source(PSK, LONG), groups=(group,))
    done = pair(client_parameters(psk=psk), server, quic=quic).run()
    assert [each.psk_identity for each in done.completed] == [psk.identity] * 2
    assert not any(each.resumed for each in done.completed)
    assert done.completed[0].cipher_suite is (
        CipherSuite.AES_256_GCM_SHA384 if psk is LONG else CipherSuite.AES_128_GCM_SHA256
    )


def test_unknown_identity_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(psk=PSK), server_parameters(credential=None, psks=Source(LONG))).run()
    assert caught.value.alert is Alert.UNKNOWN_PSK_IDENTITY


def test_wrong_key_is_refused() -> None:
    wrong = ExternalPsk(PSK.identity, bytes(32))
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(psk=wrong), server_parameters(psks=Source(PSK))).run()
    assert caught.value.alert is Alert.DECRYPT_ERROR


def test_server_without_certificate_refuses_a_client_without_psk() -> None:
    with pytest.raises(PeerError) as caught:
        pair(server=server_parameters(credential=None, psks=Source(PSK))).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_client_does_not_fall_back_to_an_unverified_certificate() -> None:
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(psk=PSK)).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_ticket_and_psk_can_be_offered_together() -> None:
    ticketed = server_parameters(tickets=Tickets(KEYS))
    state = first(client_parameters(verifier=Accepting()), ticketed)
    client = client_parameters(session_ticket=state, psk=PSK, verifier=Accepting())
    assert pair(client, ticketed).run().completed[1].resumed
    done = pair(client, server_parameters(psks=Source(PSK))).run()
    assert [each.psk_identity for each in done.completed] == [PSK.identity] * 2


def test_unverified_ticket_does_not_replace_the_psk() -> None:
    ticketed = server_parameters(tickets=Tickets(KEYS))
    client = client_parameters(session_ticket=first(server=ticketed), psk=PSK)
    with pytest.raises(PeerError) as caught:
        pair(client, ticketed).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_ticket_of_a_certificate_does_not_replace_the_psk() -> None:
    ticketed = server_parameters(tickets=Tickets(KEYS))
    state = first(client_parameters(verifier=Accepting()), ticketed)
    with pytest.raises(PeerError) as caught:
        pair(client_parameters(session_ticket=state, psk=PSK), ticketed).run()
    assert caught.value.alert is Alert.HANDSHAKE_FAILURE


def test_no_tickets_after_an_external_psk() -> None:
    done = pair(client_parameters(psk=PSK), server_parameters(psks=Source(PSK), tickets=Tickets(KEYS))).run()
    assert tickets_of(done) == []


def test_repr_omits_the_key() -> None:
    assert repr(PSK.key)[2:-1] not in repr(client_parameters(psk=PSK))
