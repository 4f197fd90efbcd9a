"""The digest that identifies what a verifier accepts: sessions fall with the trust that they were made under."""

from __future__ import annotations

from dataclasses import replace

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.events import SessionTicket
from handshaked.handshakes.peer_policy import RuledClients, RuledServers
from handshaked.model import ClientAuth, KeyType
from handshaked.registry.peer_rules import PeerRules
from handshaked.tls.parameters import Credential, Tickets
from handshaked.tls.private_key import PrivateKeySigner
from handshaked.tls.tickets import RotatingTicketKeys
from handshaked.tls.x509.verification import ClientChainVerifier, ServerChainVerifier
from tests.certificates import Issued, client, crl_pem, revocation_list, root, server
from tests.tls.pair import Pair, client_parameters, pair, server_parameters
from tests.tls.x509.chains import NO_LISTS, ROOT, T, lists_of, trust

OTHER = root("other root", number=102)
LEAF, GUEST = server(ROOT), client(ROOT, number=103)
LIST, LATER = revocation_list(ROOT), revocation_list(ROOT, [server(ROOT)])
TICKETS = Tickets(RotatingTicketKeys([(T - 100, bytes(32))]))


@pytest.mark.parametrize("verifier", [ClientChainVerifier, ServerChainVerifier])
def test_digest_is_that_of_anchors_and_lists(verifier) -> None:
    same = verifier(trust(ROOT, OTHER), lists_of(LIST, LATER)).trust
    assert len(same) == 32
    assert verifier(trust(OTHER, ROOT, ROOT), lists_of(crl_pem(LATER), LIST)).trust == same
    others = {
        verifier(trust(ROOT), lists_of(LIST, LATER)).trust,
        verifier(trust(OTHER), lists_of(LIST, LATER)).trust,
        verifier(trust(ROOT, OTHER)).trust,
        verifier(trust(ROOT, OTHER), lists_of(LIST)).trust,
        verifier(trust(ROOT, OTHER), lists_of(LATER)).trust,
        verifier(trust(ROOT, OTHER), lists_of(LIST, LATER, required=True)).trust,
    }
    assert len(others) == 6
    assert same not in others


@pytest.mark.parametrize(
    ("ruled", "verifier"), [(RuledClients, ClientChainVerifier), (RuledServers, ServerChainVerifier)]
)
def test_rules_are_in_the_digest(ruled, verifier) -> None:
    rules = [PeerRules(), PeerRules(["deny subject=*x*"]), PeerRules(["allow subject=*x*"])]
    verifiers = [verifier(trust(ROOT)), verifier(trust(OTHER))]
    digests = {ruled(each, rule).trust for each in verifiers for rule in rules}
    assert len(digests) == 6
    assert ruled(verifiers[0], PeerRules(["deny  subject=*X*"])).trust == ruled(verifiers[0], rules[1]).trust


def credential_of(issued: Issued) -> Credential:
    return Credential((issued.der,), PrivateKeySigner(issued.key), KeyType.ECDSA_P256)


SERVING = server_parameters(credential=credential_of(LEAF), tickets=TICKETS)
CALLING = client_parameters(server_name="a.example", verifier=ServerChainVerifier(trust(ROOT)))


def state(done: Pair) -> bytes:
    (ticket,) = (each for each in done.client_events if isinstance(each, SessionTicket))
    return ticket.state


@pytest.mark.parametrize(
    ("anchors", "lists"),
    [((ROOT, OTHER), NO_LISTS), ((ROOT,), lists_of(LIST))],
    ids=["one more anchor", "a revocation list"],
)
def test_client_verifies_its_server_again_when_its_trust_has_changed(anchors, lists) -> None:
    kept = state(pair(CALLING, SERVING, now=T).run())
    assert pair(replace(CALLING, session_ticket=kept), SERVING, now=T).run().completed[0].resumed
    changed = replace(CALLING, session_ticket=kept, verifier=ServerChainVerifier(trust(*anchors), lists))
    done = pair(changed, SERVING, now=T).run()
    assert [each.resumed for each in done.completed] == [False, False]
    assert done.completed[0].peer_certificates == (LEAF.der,)


@pytest.mark.parametrize(
    ("anchors", "lists", "alert"),
    [
        ((OTHER,), NO_LISTS, Alert.UNKNOWN_CA),
        ((ROOT,), lists_of(revocation_list(ROOT, [LEAF])), Alert.CERTIFICATE_REVOKED),
    ],
    ids=["anchor removed", "revoked"],
)
def test_ticket_does_not_get_around_a_changed_trust_of_the_client(anchors, lists, alert) -> None:
    kept = state(pair(CALLING, SERVING, now=T).run())
    changed = replace(CALLING, session_ticket=kept, verifier=ServerChainVerifier(trust(*anchors), lists))
    with pytest.raises(PeerError) as caught:
        pair(changed, SERVING, now=T).run()
    assert caught.value.alert is alert


@pytest.mark.parametrize("anonymous", [False, True])
def test_ticket_falls_with_the_servers_authorities(anonymous: bool) -> None:
    asking = replace(SERVING, client_auth=ClientAuth.REQUEST, client_verifier=ClientChainVerifier(trust(ROOT)))
    caller = CALLING if anonymous else replace(CALLING, credential=credential_of(GUEST))
    kept = replace(caller, session_ticket=state(pair(caller, asking, now=T).run()))
    assert pair(kept, asking, now=T).run().completed[1].resumed
    more = replace(asking, client_verifier=ClientChainVerifier(trust(ROOT, OTHER)))
    assert not pair(kept, more, now=T).run().completed[1].resumed
    gone = replace(asking, client_verifier=ClientChainVerifier(trust(OTHER)))
    if anonymous:
        assert not pair(kept, gone, now=T).run().completed[1].resumed
    else:
        with pytest.raises(PeerError) as caught:
            pair(kept, gone, now=T).run()
        assert caught.value.alert is Alert.UNKNOWN_CA
