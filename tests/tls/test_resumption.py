"""Session tickets and early data, from both sides."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from handshaked.errors import Alert, PeerError
from handshaked.events import SessionTicket
from handshaked.model import CipherSuite, ClientAuth, Group, Level
from handshaked.tls.client import MAX_TICKETS, ClientHandshake
from handshaked.tls.client_hello import ClientHelloMessage, pull_client_hello
from handshaked.tls.codepoints import PskMode
from handshaked.tls.extensions import OfferedPsks, PskIdentity
from handshaked.tls.messages import NewSessionTicketMessage, push_new_session_ticket
from handshaked.tls.parameters import ClientParameters, EarlyData, ServerParameters, Tickets
from handshaked.tls.psk_selection import select_psk
from handshaked.tls.resumption import pull_resumption
from handshaked.tls.tickets import RotatingTicketKeys
from tests.tls.pair import NOW, Pair, client_parameters, credential, kinds, pair, server_parameters
from tests.tls.test_client_auth import Verifier

DAY = 24 * 3600
KEYS = RotatingTicketKeys([(NOW - DAY, bytes(range(32)))])
TICKETS = Tickets(KEYS)


@dataclass
class Guard:
    """Remembers tickets in memory."""

    known: set[bytes] = field(default_factory=set)

    def first_use(self, ticket: bytes, issued: float, expires: float, now: float) -> bool:
        fresh = ticket not in self.known
        self.known.add(ticket)
        return fresh


def tickets_of(done: Pair) -> list[SessionTicket]:
    return [each for each in done.client_events if isinstance(each, SessionTicket)]


def first(
    client: ClientParameters | None = None, server: ServerParameters | None = None, *, quic: bool = True
) -> bytes:
    """Return the state of the ticket of a full handshake."""
    done = pair(client, server or server_parameters(tickets=TICKETS), quic=quic).run()
    assert not done.completed[0].resumed
    (ticket,) = tickets_of(done)
    return ticket.state


def resume(
    state: bytes, client: ClientParameters | None = None, server: ServerParameters | None = None, **how: object
) -> Pair:
    again = dataclasses.replace(client or client_parameters(), session_ticket=state)
    done = pair(again, server or server_parameters(tickets=TICKETS), **how).run()
    assert done.completed[0].resumed == done.completed[1].resumed
    return done


def resumes(done: Pair) -> bool:
    return done.completed[1].resumed


def test_ticket_resumes_a_session() -> None:
    done = resume(first(), now=NOW + 60)
    assert resumes(done)
    assert len(done.secrets()) == 4
    assert done.completed[0].alpn == b"h3"
    assert len(tickets_of(done)) == 1
    assert resumes(resume(tickets_of(done)[0].state, now=NOW + 120))


def test_no_tickets_without_keys() -> None:
    assert tickets_of(pair().run()) == []


def test_number_of_tickets_is_configurable() -> None:
    done = pair(server=server_parameters(tickets=Tickets(KEYS, count=3))).run()
    assert len({each.state for each in tickets_of(done)}) == 3
    assert all(resumes(resume(each.state)) for each in tickets_of(done))


@pytest.mark.parametrize("suite", CipherSuite)
def test_resumption_with_every_cipher_suite(suite: CipherSuite) -> None:
    server = server_parameters(tickets=TICKETS, cipher_suites=(suite,))
    client = client_parameters(cipher_suites=(suite,))
    assert resumes(resume(first(client, server), client, server))


def test_another_suite_of_the_same_hash_resumes() -> None:
    state = first(server=server_parameters(tickets=TICKETS, cipher_suites=(CipherSuite.AES_128_GCM_SHA256,)))
    other = server_parameters(tickets=TICKETS, cipher_suites=(CipherSuite.CHACHA20_POLY1305_SHA256,))
    assert resumes(resume(state, server=other))


def test_suite_of_another_hash_does_not_resume() -> None:
    state = first(server=server_parameters(tickets=TICKETS, cipher_suites=(CipherSuite.AES_128_GCM_SHA256,)))
    other = server_parameters(tickets=TICKETS, cipher_suites=(CipherSuite.AES_256_GCM_SHA384,))
    assert not resumes(resume(state, server=other))


@pytest.mark.parametrize(
    "change",
    [
        {"alpn": b"h2"},
        {"registration": "other"},
        {"owner": 1000},
        {"client_auth": ClientAuth.REQUEST, "client_verifier": Verifier()},
        {"tickets": None},
        {"tickets": Tickets(RotatingTicketKeys([(NOW - DAY, bytes(32))]))},
    ],
)
def test_ticket_is_bound_to_the_parameters_it_was_issued_with(change: dict[str, object]) -> None:
    assert not resumes(resume(first(), server=server_parameters(**{"tickets": TICKETS, **change})))


def test_ticket_does_not_resume_under_another_name() -> None:
    # A client that violates RFC 8446 section 4.6.1: the name in its state is replaced, with its length.
    state = first(client_parameters(server_name="b.test")).replace(b"b.test", b"a.test")
    done = resume(state)
    assert not resumes(done)


def test_client_offers_a_ticket_to_its_server_name_only() -> None:
    assert not resumes(resume(first(client_parameters(server_name="b.test"))))


def test_verifying_client_does_not_offer_an_unverified_ticket() -> None:
    class Accepting:
        trust = b"everything"

        def verify(self, chain: tuple[bytes, ...], server_name: str, now: float) -> None:
            return

    verifying = client_parameters(verifier=Accepting())
    assert not resumes(resume(first(), verifying))
    assert resumes(resume(first(verifying), verifying))


def test_ticket_expires() -> None:
    server = server_parameters(tickets=Tickets(KEYS, lifetime=100))
    state = first(server=server)
    assert resumes(resume(state, server=server, now=NOW + 99))
    assert not resumes(resume(state, server=server, now=NOW + 101))


def test_lifetime_is_at_most_seven_days() -> None:
    keys = RotatingTicketKeys([(NOW, bytes(32))], rotation=100 * DAY)
    done = pair(server=server_parameters(tickets=Tickets(keys, lifetime=30 * DAY))).run()
    assert tickets_of(done)[0].expires == NOW + 7 * DAY


def test_ticket_does_not_outlive_the_server_certificate() -> None:
    late = NOW + 29 * DAY
    keys = RotatingTicketKeys([(late - DAY, bytes(32))])
    server = server_parameters(tickets=Tickets(keys, lifetime=7 * DAY))
    done = pair(server=server, now=late).run()
    (ticket,) = tickets_of(done)
    assert ticket.expires == NOW + 30 * DAY
    again = resume(ticket.state, server=server, now=late + 3600)
    assert tickets_of(again)[0].expires == NOW + 30 * DAY


def test_tickets_survive_a_restart() -> None:
    state = first()
    same = RotatingTicketKeys([(NOW, bytes(range(32, 64))), (NOW - DAY, bytes(range(32)))])
    assert resumes(resume(state, server=server_parameters(tickets=Tickets(same)), now=NOW + 5))


@pytest.mark.parametrize("state", [b"", b"\0", bytes(60), b"\x01" + bytes(80)])
def test_invalid_state_is_ignored(state: bytes) -> None:
    assert not resumes(resume(state))


def test_resumption_after_a_retry() -> None:
    state = first()
    done = resume(state, server=server_parameters(tickets=TICKETS, groups=(Group.SECP256R1,)))
    assert resumes(done)
    assert done.flights == 3
    assert len(done.secrets()) == 4


def test_client_certificate_in_the_ticket_is_verified_again() -> None:
    ours = credential(name="client")
    verifier = Verifier()
    client = client_parameters(credential=ours)
    server = server_parameters(tickets=TICKETS, client_auth=ClientAuth.REQUIRE, client_verifier=verifier)
    state = first(client, server)
    done = resume(state, client, server)
    assert resumes(done)
    assert done.completed[1].peer_certificates == ours.chain
    assert verifier.seen == [ours.chain] * 2
    verifier.alert = Alert.CERTIFICATE_REVOKED
    with pytest.raises(PeerError) as caught:
        resume(state, client, server)
    assert caught.value.alert is Alert.CERTIFICATE_REVOKED


def test_one_chain_in_the_offered_tickets_is_verified_at_most() -> None:
    """A ClientHello may offer eight tickets, and others wait while a chain is verified."""
    verifier = Verifier()
    server = server_parameters(tickets=TICKETS, client_auth=ClientAuth.REQUIRE, client_verifier=verifier)
    identities = [
        pull_resumption(first(client_parameters(credential=credential(name="client")), server)).ticket for _ in range(3)
    ]
    seen = len(verifier.seen)
    verifier.alert = Alert.CERTIFICATE_EXPIRED
    offered = [PskIdentity(identity, 0) for identity in identities]
    hello = offering(offered)
    assert select_psk(hello, server, None, NOW, quic=True) is None
    assert len(verifier.seen) == seen + 1
    hello.cipher_suites = (CipherSuite.AES_256_GCM_SHA384,)
    assert select_psk(hello, server, None, NOW, quic=True) is None
    assert len(verifier.seen) == seen + 1


def offering(identities: list[PskIdentity]) -> ClientHelloMessage:
    """Return the parsed ClientHello of the default client, with `identities` in addition."""
    (event,) = ClientHandshake(client_parameters()).start(NOW)
    hello = pull_client_hello(event.data)
    hello.psk_modes = bytes([PskMode.PSK_DHE_KE])
    hello.psks = OfferedPsks(identities, [bytes(32)] * len(identities), 0)
    return hello


def test_client_keeps_a_limited_number_of_tickets() -> None:
    done = pair(client_parameters(), server_parameters(tickets=TICKETS)).run()
    ticket = push_new_session_ticket(NewSessionTicketMessage(60, 0, b"", b"ticket"))
    assert len(done.client.receive(Level.APPLICATION, ticket * (MAX_TICKETS - 1), NOW)) == MAX_TICKETS - 1
    assert done.client.receive(Level.APPLICATION, ticket, NOW) == []


# Early data


def early_pair(guard: Guard, **changes: object) -> tuple[ClientParameters, ServerParameters]:
    return client_parameters(early_data=True), server_parameters(
        tickets=TICKETS, early_data=EarlyData(guard), **changes
    )


@pytest.mark.parametrize("quic", [True, False])
def test_early_data_is_accepted(quic: bool) -> None:
    client, server = early_pair(Guard())
    done = resume(first(client, server, quic=quic), client, server, quic=quic, now=NOW + 3)
    assert [each.early_data_accepted for each in done.completed] == [True, True]
    assert done.client.early_data is done.server.early_data is True
    assert len(done.secrets()) == 5
    assert kinds(done.client_events)[:2] == ["crypto initial", "secret early send"]
    assert kinds(done.server_events)[:2] == ["secret early receive", "crypto initial"]
    assert ("crypto early" in kinds(done.client_events)) is not quic


def test_end_of_early_data_moves_the_server_to_handshake_keys() -> None:
    client, server = early_pair(Guard())
    done = resume(first(client, server, quic=False), client, server, quic=False)
    order = kinds(done.server_events)
    assert order.index("secret handshake receive") > order.index("secret application send")


def test_early_data_is_off_by_default() -> None:
    client = client_parameters(early_data=True)
    done = resume(first(client), client)
    assert resumes(done)
    assert done.client.early_data is None


def test_replayed_early_data_is_rejected() -> None:
    client, server = early_pair(Guard())
    state = first(client, server)
    assert resume(state, client, server).completed[1].early_data_accepted
    done = resume(state, client, server)
    assert resumes(done)
    assert [each.early_data_accepted for each in done.completed] == [False, False]
    assert done.server.early_data is False


def test_early_data_of_another_context_is_rejected() -> None:
    client, server = early_pair(Guard())
    state = first(client, server)
    other = dataclasses.replace(server, early_data=EarlyData(Guard(), context=b"other"))
    assert not resume(state, client, other).completed[1].early_data_accepted


@pytest.mark.parametrize(("late", "accepted"), [(9, True), (11, False), (-9, True), (-11, False)])
def test_early_data_outside_the_age_window_is_rejected(late: float, accepted: bool) -> None:
    client, server = early_pair(Guard())
    state = first(client, server)
    done = pair(dataclasses.replace(client, session_ticket=state), server, now=NOW + 100)
    hello = done.client.start(NOW + 100)
    done.server.receive(Level.INITIAL, hello[0].data, NOW + 100 + late)
    done.server.proceed(server, NOW + 100 + late)
    assert done.server.early_data is accepted


def test_hello_retry_request_rejects_early_data() -> None:
    client, server = early_pair(Guard())
    done = resume(first(client, server), client, dataclasses.replace(server, groups=(Group.SECP384R1,)))
    assert resumes(done)
    assert done.client.early_data is done.server.early_data is False


def test_ticket_without_early_data_offers_none() -> None:
    client = client_parameters(early_data=True)
    state = first(client)
    done = resume(state, client, early_pair(Guard())[1])
    assert done.client.early_data is None
    assert resumes(done)
